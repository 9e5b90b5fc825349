// A stack of blocks whose activations are kept or rebuilt as a plan says.
#pragma once

#include <torch/custom_class.h>
#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "crnet/recompute/plan.h"

namespace crnet {

/// What flows from block to block.
struct BlockState {
  torch::Tensor hidden;  ///< residual stream
  /// Raw outputs Y of the block's projections, in the order in which it calls them; empty below the
  /// first block, and after every block of an architecture without a cross-layer path.
  std::vector<torch::Tensor> outputs;
};

/// A block of any model. Its forward must depend on nothing but its argument and the parameters, as
/// it is called again in the backward pass. Where outputs flow, projection i must be the i-th
/// CRNetLayer that it calls, take `below.outputs[i]`, and give `outputs[i]`. It changes neither its
/// input nor its outputs in place. Under a plan that inverts, nothing else reads the values of
/// `below.outputs`: in the backward pass they are NaN until the CRNetLayer needs them.
struct StackBlock {
  std::function<BlockState(const BlockState& below)> forward;
  std::vector<torch::Tensor> parameters;  ///< all that forward reads and that want a gradient
};

/// Called around every use of what a block's parameters hold, which may be absent in between: in
/// the forward pass, in the backward pass (not `forward`), and where outputs are replayed. A block
/// counts from 0, and may be in use several times at once.
struct ParameterUse : torch::CustomClassHolder {
  std::function<void(size_t block, bool forward)> before;
  std::function<void(size_t block)> after;
};
using ParameterUsePtr = c10::intrusive_ptr<ParameterUse>;

/// How far rebuilt outputs were from the true ones.
struct RecomputeDrift {
  int64_t block = 0;             ///< from 1
  std::vector<double> relative;  ///< ‖rebuilt − true‖ / ‖true‖ per projection
  /// The largest; NaN where any is.
  [[nodiscard]] double worst() const;
};

/// Runs stacks of blocks under one plan. What a block keeps for its backward pass is its hidden
/// input, and X A and Y of its projections where the plan says so; the backward pass rebuilds the
/// rest, block by block from the last to the first, so gradients arrive block by block.
///
/// Under a plan that inverts, every step knows c of every projection: where the product of 1/|c|
/// between two anchors passes max_amplification, the projection's outputs there are replayed
/// forward from then on. (A step with |c| > 1 is no credit for later ones, which round anew.)
///
/// Second derivatives, and a second backward pass through one forward pass, are errors.
class BlockStack {
 public:
  /// A run of blocks between two anchors and a projection in it.
  struct Span {
    int64_t first = 0, last = 0;  ///< blocks, from 1, whose outputs are rebuilt
    int64_t projection = 0;       ///< from 0
    auto operator<=>(const Span&) const = default;
  };

  explicit BlockStack(RecomputePlan plan = {}) : plan_(std::move(plan)) {}

  /// The hidden state [like `hidden`] after the last block. Where gradients are off, and with a
  /// plan that keeps everything, the blocks are simply called. Throws Error where the plan is of
  /// another number of blocks, and where a block breaks the rules of StackBlock. `use`, where
  /// given, is kept for the backward pass.
  torch::Tensor forward(const std::vector<StackBlock>& blocks, const torch::Tensor& hidden,
                        const ParameterUsePtr& use = nullptr);

  [[nodiscard]] const RecomputePlan& plan() const { return plan_; }

  /// Spans that are replayed although the plan inverts. A checkpoint has to keep them.
  [[nodiscard]] const std::set<Span>& replayed() const { return replayed_; }
  void set_replayed(std::set<Span> spans) { replayed_ = std::move(spans); }

  /// Compares the rebuilt outputs of one block, in turn, with the true ones in the next backward
  /// pass; does nothing under a plan that rebuilds none.
  void check_next();
  /// The result of the latest comparison; block 0 before the first.
  [[nodiscard]] const RecomputeDrift& drift() const { return *drift_; }

 private:
  RecomputePlan plan_;
  std::set<Span> replayed_;
  int64_t block_to_check_ = 0;  // from 1; 0: none
  bool checks_next_ = false;
  std::shared_ptr<RecomputeDrift> drift_ = std::make_shared<RecomputeDrift>();
};

}  // namespace crnet
