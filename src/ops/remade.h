// Outputs that are cheap to make again: the operator that reads one does not keep it for its
// backward pass, but asks the operator that made it, which keeps its own input anyway. An operator
// here is a torch::autograd::Function.
#pragma once

#include <torch/csrc/autograd/custom_function.h>
#include <torch/custom_class.h>
#include <torch/types.h>

#include <functional>
#include <mutex>
#include <utility>

namespace crnet {

/// The output of one operator, made again in the backward pass, once for all who read it. Stays
/// until the operator's own backward, or where that does not run as long as the graph.
class RemadeOutput : public torch::CustomClassHolder {
 public:
  explicit RemadeOutput(std::function<torch::Tensor()> make) : make_(std::move(make)) {}
  /// To the bit what the forward pass gave.
  [[nodiscard]] torch::Tensor read();
  /// It has been made by `make` of another output.
  void set(const torch::Tensor& output);
  void let_go();

 private:
  std::function<torch::Tensor()> make_;
  std::mutex mutex_;      // passes through one graph may run in several threads
  torch::Tensor output_;  // from the first reading until it is let go
};
using RemadeOutputPtr = c10::intrusive_ptr<RemadeOutput>;

/// In an operator's forward: its output of this number can be made again from saved variables.
/// `make` may use `ctx`, which lives as long as anybody can ask: a reader's edge holds the
/// operator's node.
void offer_output(torch::autograd::AutogradContext* ctx, std::function<torch::Tensor()> make,
                  uint32_t number = 0);
/// What is offered of this number; nullptr where nothing is.
RemadeOutputPtr offered_output(const torch::autograd::AutogradContext& ctx, uint32_t number = 0);
/// In its backward, where all who read its outputs have done so.
void let_go_of_outputs(torch::autograd::AutogradContext* ctx);

/// What an operator offers of an output if `node` is its own; nullptr otherwise. A node does not
/// tell what made it but by its type, which only the operator's own source knows: hence a function
/// for each.
template <class Operator>
RemadeOutputPtr output_offered_by(torch::autograd::Node* node, uint32_t number) {
  auto* const own = dynamic_cast<torch::autograd::CppNode<Operator>*>(node);
  return own == nullptr ? nullptr : offered_output(own->ctx_, number);
}
RemadeOutputPtr rms_norm_output(torch::autograd::Node* node, uint32_t number);
RemadeOutputPtr rope_output(torch::autograd::Node* node, uint32_t number);
RemadeOutputPtr swiglu_output(torch::autograd::Node* node, uint32_t number);

/// In the forward of an operator that reads x in its backward: what to save of x, an undefined
/// tensor where x is the output of one of these operators as that left it, else x itself. `name` is
/// its own among the operator's inputs.
[[nodiscard]] torch::Tensor to_save(torch::autograd::AutogradContext* ctx, const char* name,
                                    const torch::Tensor& x);
/// In its backward: x, from what was saved of it. Throws Error where that pass builds a graph.
[[nodiscard]] torch::Tensor from_saved(torch::autograd::AutogradContext* ctx, const char* name,
                                       const torch::Tensor& saved);

}  // namespace crnet
