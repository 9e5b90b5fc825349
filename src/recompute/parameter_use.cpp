#include "recompute/parameter_use.h"

#include "ops/carried_gradient.h"

namespace crnet {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;

// Hands everything on; its place in the graph is what it is for.
class Boundary : public torch::autograd::Function<Boundary> {
 public:
  static tensor_list forward(AutogradContext* ctx, const ParameterUsePtr& use, size_t block,
                             bool is_above, at::TensorList tensors) {
    ctx->set_materialize_grads(false);
    ctx->saved_data["use"] = c10::IValue::make_capsule(use);
    ctx->saved_data["block"] = static_cast<int64_t>(block);
    ctx->saved_data["is_above"] = is_above;
    tensor_list same;
    for (const auto& t : tensors) same.push_back(t.variable_data());
    accept_carried<Boundary>(ctx, same.size());
    return same;
  }

  static tensor_list backward(AutogradContext* ctx, const tensor_list& gradients) {
    const auto capsule = ctx->saved_data["use"].toCapsule();
    const auto& use = static_cast<ParameterUse&>(*capsule);
    const auto block = static_cast<size_t>(ctx->saved_data["block"].toInt());
    if (ctx->saved_data["is_above"].toBool()) {
      use.before(block, /*forward=*/false);
    } else {
      use.after(block);
    }
    tensor_list results(3);
    for (uint32_t i = 0; i < gradients.size(); ++i) {
      results.push_back(carry_on(i, gradients[i], take_carried(ctx, i)));
    }
    return results;
  }
};

BlockState pass(const ParameterUsePtr& use, size_t block, bool is_above, const BlockState& state) {
  tensor_list tensors = {state.hidden};
  tensors.insert(tensors.end(), state.outputs.begin(), state.outputs.end());
  tensors = Boundary::apply(use, block, is_above, at::TensorList(tensors));
  return {tensors[0], {tensors.begin() + 1, tensors.end()}};
}

}  // namespace

BlockState call_with_graph(const StackBlock& block, size_t index, const BlockState& below,
                           const ParameterUsePtr& use) {
  if (!use) return block.forward(below);
  const BlockState entered = pass(use, index, /*is_above=*/false, below);
  const InUse in_use(use, index, /*forward=*/true);
  return pass(use, index, /*is_above=*/true, block.forward(entered));
}

}  // namespace crnet
