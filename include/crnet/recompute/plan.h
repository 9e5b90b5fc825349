// Which activations a training step keeps from the forward to the backward pass, block by block.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "crnet/config/fields.h"

namespace crnet {

enum class RecomputeStrategy {
  kNone,     ///< everything is kept, nothing is computed twice
  kFull,     ///< plain checkpointing: a block's inputs, Y of the block below included
  kInverse,  ///< X and X A of every block, Y of anchors; other Y by inversion (arXiv 2509.18993)
  kReplay,   ///< X and X A of every block, Y where segments start; other Y forward, bit-identical
  kColaM,    ///< cola: X and X A of every block (CoLA-M, arXiv 2502.10940)
};

template <>
struct EnumNames<RecomputeStrategy> {
  static constexpr std::array<EnumName<RecomputeStrategy>, 5> kValues = {
      {{RecomputeStrategy::kNone, "none"},
       {RecomputeStrategy::kFull, "full"},
       {RecomputeStrategy::kInverse, "inverse"},
       {RecomputeStrategy::kReplay, "replay"},
       {RecomputeStrategy::kColaM, "cola_m"}}};
};

struct RecomputeConfig {
  RecomputeStrategy strategy = RecomputeStrategy::kNone;
  /// Blocks, from 1, whose Y is kept; or one number, a stride; an empty list: the strategy's own.
  IntegerOrListOrMap anchors = std::vector<int64_t>{};
  double max_amplification = 4;  ///< inverse: greatest ∏ 1/|c| between anchors
  int64_t check_every = 0;       ///< steps between comparisons of rebuilt Y with true ones

  template <class Visitor>
  void visit_fields(Visitor&& visit) {
    visit(
        strategy,
        {.name = "strategy",
         .help = "what is computed again in the backward pass: none; full (each block); inverse "
                 "or replay (crnet: outputs from those of blocks above or below); cola_m (cola)"});
    visit(anchors, {.name = "anchors",
                    .help = "inverse, replay: blocks, counted from 1, whose outputs are kept, or "
                            "one number: every so many blocks; []: 8 for inverse, for replay what "
                            "keeps fewest",
                    .minimum = 1});
    visit(max_amplification,
          {.name = "max_amplification",
           .help = "inverse: greatest growth of errors between anchors, the product of 1/|c|; past "
                   "it, outputs are replayed forward",
           .minimum = 1});
    visit(check_every, {.name = "check_every",
                        .help = "steps between comparisons of one block's rebuilt outputs with the "
                                "true ones; 0: never",
                        .minimum = 0});
  }
};

/// What is kept of one block.
struct BlockPlan {
  bool graph = false;     ///< autograd's own graph: nothing is rebuilt
  bool products = false;  ///< X A of its projections, so that they are not multiplied again
  bool outputs = false;   ///< Y of its projections
};

struct RecomputePlan {
  std::vector<BlockPlan> blocks;  ///< one per block; empty: all keep their graph
  bool inverts = false;           ///< missing outputs come from the block above, else from below
  double max_amplification = 4;

  /// Whether any block is rebuilt.
  [[nodiscard]] bool is_active() const;
};

/// The plan of a strategy for `num_blocks` blocks. Throws UsageError whose text starts with the key
/// at fault ("recompute.anchors: expected …").
[[nodiscard]] RecomputePlan make_plan(const RecomputeConfig& config, int64_t num_blocks);

}  // namespace crnet
