#include "crnet/recompute/block_stack.h"

#include <ATen/core/grad_mode.h>

#include <cmath>

#include "crnet/core/error.h"
#include "crnet/core/format.h"
#include "ops/carried_gradient.h"
#include "recompute/parameter_use.h"
#include "recompute/stack_run.h"

namespace crnet {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;

// A block as one node of autograd's graph. Inputs: the hidden state, the outputs below, the
// parameters; outputs: the hidden state and the block's outputs.
class RebuiltBlock : public torch::autograd::Function<RebuiltBlock> {
 public:
  static tensor_list forward(AutogradContext* ctx, const c10::intrusive_ptr<StackRun>& run,
                             size_t block, at::TensorList inputs) {
    ctx->set_materialize_grads(false);
    ctx->saved_data["run"] = c10::IValue::make_capsule(run);
    ctx->saved_data["block"] = static_cast<int64_t>(block);
    const BlockState above = run->forward(block, inputs);
    tensor_list results = {above.hidden};
    results.insert(results.end(), above.outputs.begin(), above.outputs.end());
    accept_carried<RebuiltBlock>(ctx, results.size());
    return results;
  }

  static tensor_list backward(AutogradContext* ctx, const tensor_list& gradients) {
    const auto capsule = ctx->saved_data["run"].toCapsule();
    const auto block = static_cast<size_t>(ctx->saved_data["block"].toInt());
    std::vector<std::optional<Carried>> carried;
    for (size_t i = 0; i < gradients.size(); ++i) carried.push_back(take_carried(ctx, i));
    tensor_list results = {Tensor(), Tensor()};
    const auto inputs = static_cast<StackRun&>(*capsule).backward(block, gradients, carried);
    results.insert(results.end(), inputs.begin(), inputs.end());
    return results;
  }
};

BlockState apply_rebuilt(const c10::intrusive_ptr<StackRun>& run, size_t block,
                         const BlockState& below) {
  tensor_list inputs = {below.hidden};
  inputs.insert(inputs.end(), below.outputs.begin(), below.outputs.end());
  const auto& parameters = run->blocks[block].parameters;
  inputs.insert(inputs.end(), parameters.begin(), parameters.end());
  tensor_list results = RebuiltBlock::apply(run, block, at::TensorList(inputs));
  return {results[0], {results.begin() + 1, results.end()}};
}

}  // namespace

double RecomputeDrift::worst() const {
  double worst = 0;
  for (const double error : relative) {
    if (std::isnan(worst) || error <= worst) continue;  // takes NaN, and keeps it
    worst = error;
  }
  return worst;
}

Tensor BlockStack::forward(const std::vector<StackBlock>& blocks, const Tensor& hidden,
                           const ParameterUsePtr& use) {
  BlockState state{hidden, {}};
  if (!at::GradMode::is_enabled()) {
    for (size_t block = 0; block < blocks.size(); ++block) {
      const InUse in_use(use, block, /*forward=*/true);
      state = blocks[block].forward(state);
    }
    return state.hidden;
  }
  if (!plan_.is_active()) {
    for (size_t block = 0; block < blocks.size(); ++block) {
      state = call_with_graph(blocks[block], block, state, use);
    }
    return state.hidden;
  }
  if (plan_.blocks.size() != blocks.size()) {
    throw Error(format("[recompute] expected a plan for %zu blocks, got one for %zu", blocks.size(),
                       plan_.blocks.size()));
  }
  const auto run = c10::make_intrusive<StackRun>(plan_, blocks, use, replayed_, drift_);
  if (checks_next_) run->checked_block = block_to_check_;
  checks_next_ = false;
  for (size_t block = 0; block < blocks.size(); ++block) {
    if (plan_.blocks[block].graph) {
      state = call_with_graph(blocks[block], block, state, use);
      run->hold_outputs(block, state);
    } else {
      state = apply_rebuilt(run, block, state);
    }
  }
  run->finish_forward();
  replayed_ = run->replayed;
  return state.hidden;
}

void BlockStack::check_next() {
  const auto& blocks = plan_.blocks;
  const auto count = static_cast<int64_t>(blocks.size());
  for (int64_t tried = 0; tried < count; ++tried) {
    block_to_check_ = block_to_check_ % count + 1;
    const BlockPlan& block = blocks[static_cast<size_t>(block_to_check_ - 1)];
    if (block.graph || !block.products || block.outputs) continue;
    checks_next_ = true;
    return;
  }
}

}  // namespace crnet
