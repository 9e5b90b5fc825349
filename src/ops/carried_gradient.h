// How the gradient of Y_prev gets to the operator that made it: not as c · dY, which autograd would
// add to what comes from Y_prev's other readers (a pass over memory to make it, and one to add it),
// but as dY and c, which that operator adds in the pass in which it reads its own gradient; or, if
// that gradient is about to be made by an operator that asks for it (open_gradients()), in the pass
// that makes it. Y_prev has to be there then: where it is inverted later, nothing is opened. An
// operator here is a torch::autograd::Function.
#pragma once

#include <torch/csrc/autograd/custom_function.h>
#include <torch/custom_class.h>
#include <torch/types.h>

#include <functional>
#include <initializer_list>
#include <mutex>
#include <optional>
#include <vector>

namespace crnet {

/// scale · gradient is to be added.
struct Carried {
  torch::Tensor gradient;  // [..., out] as the output, contiguous, of the compute dtype
  torch::Tensor scale;     // [], fp32 or wider
  bool is_owned = false;   // nobody else reads `gradient`
  torch::Tensor dot = {};  // defined: `gradient` is the sum already, and this its dot with y_prev
};

/// What has been carried to the outputs of one operator, each in one backward pass.
class CarriedGradients : public torch::CustomClassHolder {
 public:
  static constexpr int kAnyPass = -1;

  explicit CarriedGradients(size_t num_outputs) : entries_(num_outputs) {}
  /// False, with nothing done, where something lies there: of another reader, or of another pass,
  /// which may run in another thread.
  bool put(size_t output, const Carried& carried, int pass = kAnyPass);
  /// What was put there for this pass.
  [[nodiscard]] std::optional<Carried> take(size_t output, int pass = kAnyPass);

  /// What lies there for this pass, if `suits` it. It stays, so that nobody puts anything else
  /// there.
  [[nodiscard]] std::optional<Carried> look(size_t output, int pass,
                                            const std::function<bool(const Carried&)>& suits);
  /// It has been added up.
  void close(size_t output, const torch::Tensor& dot);

  /// See open_gradients(). Gives y_prev, or an undefined tensor.
  std::function<torch::Tensor()> y_prev;

 private:
  struct Entry {
    int pass;
    Carried carried;
  };
  static bool is_of(const Entry& entry, int pass);

  std::mutex mutex_;
  std::vector<std::optional<Entry>> entries_;
};
using CarriedGradientsPtr = c10::intrusive_ptr<CarriedGradients>;

/// What is carried to this node's outputs; nullptr where its operator does not accept it.
[[nodiscard]] CarriedGradientsPtr carried_to(torch::autograd::Node* node);
/// Carries a gradient to this output of a node, in the backward pass `pass`. False where its
/// operator does not accept it, where hooks would see a part of the gradient, and where something
/// lies there.
[[nodiscard]] bool carry_to(torch::autograd::Node* node, uint32_t output, const Carried& carried,
                            int pass = CarriedGradients::kAnyPass);

/// In an operator's forward: it accepts what is carried to its outputs, by calling take_carried()
/// in its backward.
template <class Operator>
void accept_carried(torch::autograd::AutogradContext* ctx, size_t num_outputs = 1);
/// What was carried to this output in the backward pass that runs.
[[nodiscard]] std::optional<Carried> take_carried(torch::autograd::AutogradContext* ctx,
                                                  size_t output = 0);

/// In an operator's backward: carries a gradient to the operator that made its input `input`,
/// counted among its tensors; the gradient to return is an undefined one then. False as carry_to(),
/// and where somebody else would see the gradient: hooks behind the operator, a pass that is asked
/// for it or that builds a graph; or where the two ran on different streams.
[[nodiscard]] bool carry(uint32_t input, const Carried& carried);

/// What is carried to the output of cross_layer_sum() that is the operator's input.
struct OpenGradient {
  Carried carried;       // owned
  torch::Tensor y_prev;  // [..., out], contiguous
  CarriedGradientsPtr place;
  uint32_t output;
};
/// In an operator's backward, which is about to make the gradients of these inputs: what is carried
/// there, to be added in the same pass over memory; none where it is not there for all of them, is
/// not to be seen, as with carry(), or has not the dtype and device of `like` and an fp32 scale.
/// Whoever opens them has to close them, and to return each `carried.gradient`, where the sum is
/// then, as the input's.
[[nodiscard]] std::vector<OpenGradient> open_gradients(std::initializer_list<uint32_t> inputs,
                                                       const torch::Tensor& like);
/// `dot`: Σ sum ⊙ y_prev, like the scale.
void close_gradient(const OpenGradient& open, const torch::Tensor& dot);
/// How many have been closed in this process, for tests.
[[nodiscard]] int64_t num_closed_gradients();

/// In a forward: cross_layer_sum()'s output may be opened.
void let_open(torch::autograd::AutogradContext* ctx, std::function<torch::Tensor()> y_prev);

/// For operators that pass a gradient on: what to return as that of input `input`. `gradient`,
/// defined or not, where what was carried to it can be carried on, else the sum of both.
[[nodiscard]] torch::Tensor carry_on(uint32_t input, const torch::Tensor& gradient,
                                     const std::optional<Carried>& carried);
/// `gradient`, where it is defined, plus what was carried there, as autograd would have it.
[[nodiscard]] torch::Tensor plus_carried(const torch::Tensor& gradient, const Carried& carried);

namespace detail {

using CarriedOf = CarriedGradientsPtr (*)(torch::autograd::Node* node);
/// A node does not tell what made it but by its type, which only the operator's own source knows:
/// operators of other layers have it too, so they say so here.
void register_operator(CarriedOf carried_of);
void attach_carried(torch::autograd::AutogradContext* ctx, size_t num_outputs);
[[nodiscard]] CarriedGradientsPtr attached_carried(const torch::autograd::AutogradContext& ctx);

template <class Operator>
CarriedGradientsPtr carried_of(torch::autograd::Node* node) {
  auto* const own = dynamic_cast<torch::autograd::CppNode<Operator>*>(node);
  return own == nullptr ? nullptr : attached_carried(own->ctx_);
}

}  // namespace detail

template <class Operator>
void accept_carried(torch::autograd::AutogradContext* ctx, size_t num_outputs) {
  static const bool is_registered = (detail::register_operator(detail::carried_of<Operator>), true);
  static_cast<void>(is_registered);
  detail::attach_carried(ctx, num_outputs);
}

}  // namespace crnet
