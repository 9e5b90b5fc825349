// Outputs that are cheap to make again: the operator that reads one does not keep it for its
// backward pass, but asks the operator that made it, which keeps its own input anyway. An operator
// here is a torch::autograd::Function.
#pragma once

#include <torch/csrc/autograd/custom_function.h>
#include <torch/custom_class.h>
#include <torch/types.h>

#include <functional>
#include <utility>

namespace crnet {

/// The output of one operator, made again in the backward pass, once for all who read it.
class RemadeOutput : public torch::CustomClassHolder {
 public:
  explicit RemadeOutput(std::function<torch::Tensor()> make) : make_(std::move(make)) {}
  /// To the bit what the forward pass gave.
  [[nodiscard]] torch::Tensor read();
  void let_go() { output_.reset(); }

 private:
  std::function<torch::Tensor()> make_;
  torch::Tensor output_;  // from the first reading until it is let go
};
using RemadeOutputPtr = c10::intrusive_ptr<RemadeOutput>;

/// In an operator's forward: its output can be made again by Operator::remake(ctx), from saved
/// variables.
template <class Operator>
void offer_output(torch::autograd::AutogradContext* ctx) {
  ctx->saved_data["output"] = c10::IValue::make_capsule(
      c10::make_intrusive<RemadeOutput>([ctx] { return Operator::remake(ctx); }));
}
/// In its backward, where all who read the output have done so.
void let_go_of_output(torch::autograd::AutogradContext* ctx);

/// What an operator offers if `node` is its own; nullptr otherwise.
template <class Operator>
RemadeOutputPtr output_offered_by(torch::autograd::Node* node) {
  auto* const own = dynamic_cast<torch::autograd::CppNode<Operator>*>(node);
  if (own == nullptr) return nullptr;
  const auto found = own->ctx_.saved_data.find("output");
  if (found == own->ctx_.saved_data.end()) return nullptr;
  return c10::static_intrusive_pointer_cast<RemadeOutput>(found->second.toCapsule());
}
RemadeOutputPtr residual_sum_output(torch::autograd::Node* node);
RemadeOutputPtr rms_norm_output(torch::autograd::Node* node);
RemadeOutputPtr rope_output(torch::autograd::Node* node);
RemadeOutputPtr swiglu_output(torch::autograd::Node* node);

/// In the forward of an operator that reads x in its backward: what to save of x, x itself or an
/// undefined tensor. `name` is its own among the operator's inputs.
[[nodiscard]] torch::Tensor to_save(torch::autograd::AutogradContext* ctx, const char* name,
                                    const torch::Tensor& x);
/// In its backward: x, from what was saved of it.
[[nodiscard]] torch::Tensor from_saved(torch::autograd::AutogradContext* ctx, const char* name,
                                       const torch::Tensor& saved);

}  // namespace crnet
