// Which activations a training step keeps from the forward to the backward pass, block by block.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "crnet/config/fields.h"

namespace crnet {

enum class RecomputeStrategy {
  kNone,     ///< everything is kept but what operators make again anyway (ops/remade.h)
  kFull,     ///< plain checkpointing: a block's inputs, Y of the block below included
  kInverse,  ///< X and X A of every block, Y of anchors; other Y by inversion (arXiv 2509.18993)
  kReplay,   ///< X and X A of every block, Y where segments start; other Y forward, bit-identical
  kColaM,    ///< cola: X and X A of every block (CoLA-M, arXiv 2502.10940)
  kAuto,     ///< the cheapest plan that a memory budget allows (train/planner.h)
};

template <>
struct EnumNames<RecomputeStrategy> {
  static constexpr std::array<EnumName<RecomputeStrategy>, 6> kValues = {
      {{RecomputeStrategy::kNone, "none"},
       {RecomputeStrategy::kFull, "full"},
       {RecomputeStrategy::kInverse, "inverse"},
       {RecomputeStrategy::kReplay, "replay"},
       {RecomputeStrategy::kColaM, "cola_m"},
       {RecomputeStrategy::kAuto, "auto"}}};
};

struct RecomputeConfig {
  RecomputeStrategy strategy = RecomputeStrategy::kNone;
  /// Blocks, from 1, whose Y is kept; or one number, a stride; an empty list: the strategy's own.
  IntegerOrListOrMap anchors = std::vector<int64_t>{};
  bool keep_attention = false;        ///< attention's result too, so that it does not run twice
  std::string memory_budget = "fit";  ///< auto: "60GiB", or "fit": what the device has free
  double max_amplification = 4;       ///< inverse: greatest ∏ 1/|c| between anchors
  int64_t check_every = 0;            ///< steps between comparisons of rebuilt Y with true ones

  template <class Visitor>
  void visit_fields(Visitor&& visit) {
    visit(strategy,
          {.name = "strategy",
           .help = "what is computed again in the backward pass: none; full (each block); inverse "
                   "or replay (crnet: outputs from those of blocks above or below); cola_m (cola); "
                   "auto (the cheapest that fits memory_budget)"});
    visit(anchors, {.name = "anchors",
                    .help = "inverse, replay: blocks, counted from 1, whose outputs are kept, or "
                            "one number: every so many blocks; []: 8 for inverse, for replay what "
                            "keeps fewest",
                    .minimum = 1});
    visit(keep_attention, {.name = "keep_attention",
                           .help = "inverse, replay, cola_m: keep attention's result and "
                                   "log-sum-exp too (on a GPU in bf16), so that "
                                   "it does not run twice"});
    visit(memory_budget,
          {.name = "memory_budget",
           .help = "auto: memory of the whole training process, such as 60GiB; fit: what the "
                   "device has free"});
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
  bool graph = false;      ///< autograd's own graph: nothing is rebuilt
  bool products = false;   ///< X A of its projections, so that they are not multiplied again
  bool outputs = false;    ///< Y of its projections
  bool attention = false;  ///< result and log-sum-exp of attention; wants `products`

  bool operator==(const BlockPlan&) const = default;
};

struct RecomputePlan {
  std::vector<BlockPlan> blocks;  ///< one per block; empty: all keep their graph
  bool inverts = false;           ///< missing outputs come from the block above, else from below
  double max_amplification = 4;

  /// Whether any block is rebuilt.
  [[nodiscard]] bool is_active() const;
};

/// The plan of a strategy for `num_blocks` blocks; for auto that of none, since it depends on a
/// model (train/planner.h). Throws UsageError whose text starts with the key at fault
/// ("recompute.anchors: expected …").
[[nodiscard]] RecomputePlan make_plan(const RecomputeConfig& config, int64_t num_blocks);

/// Inversion downwards from the top: every `stride`-th block from the last one on, block 1 left out
/// (arXiv 2509.18993: L ∈ A, 1 ∉ A). Blocks count from 1; ascending.
[[nodiscard]] std::vector<int64_t> inverse_anchors(int64_t num_blocks, int64_t stride);

/// The first blocks of replay's segments such that, at any moment of the backward pass, the Y of
/// at most `held` blocks are in memory: anchors at or below plus what is rebuilt. Segments shrink
/// from below upwards, since those above hold more anchors: `held`, `held` − 1, …, so about √(2L)
/// are enough where equal segments need 2√L. Uses `held` anchors where there are blocks enough.
/// `held` below least_held_outputs is taken as that.
[[nodiscard]] std::vector<int64_t> replay_anchors(int64_t num_blocks, int64_t held);

/// The least n with n(n + 1)/2 ≥ num_blocks.
[[nodiscard]] int64_t least_held_outputs(int64_t num_blocks);

/// A plan in words: "blocks 1-8 rebuilt from X A and Y of 1, 5, 7, 8, replayed; blocks 9-12 kept".
[[nodiscard]] std::string describe(const RecomputePlan& plan);

/// Bytes of "60GiB", "512 MiB", "80GB" (units to TB and TiB; no unit: bytes). Throws UsageError
/// that starts with "recompute.memory_budget: expected …". 0 for "fit".
[[nodiscard]] int64_t parse_memory_budget(const std::string& text);

}  // namespace crnet
