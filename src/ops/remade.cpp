#include "ops/remade.h"

#include <ATen/core/grad_mode.h>
#include <ATen/record_function.h>

#include <string>

#include "crnet/core/error.h"

namespace crnet {

using torch::Tensor;
using torch::autograd::AutogradContext;

namespace {

RemadeOutput& remade(const c10::IValue& value) {
  return static_cast<RemadeOutput&>(*value.toCapsule());
}

const std::string kOffer = "output ";  // and its number

}  // namespace

Tensor RemadeOutput::read() {
  const std::lock_guard lock(mutex_);
  if (!output_.defined()) {
    RECORD_USER_SCOPE("crnet::remake");
    const at::NoGradGuard no_grad;
    output_ = make_();
  }
  return output_;
}

void RemadeOutput::set(const Tensor& output) {
  const std::lock_guard lock(mutex_);
  output_ = output;
}

void RemadeOutput::let_go() {
  const std::lock_guard lock(mutex_);
  output_.reset();
}

void offer_output(AutogradContext* ctx, std::function<Tensor()> make, uint32_t number) {
  ctx->saved_data[kOffer + std::to_string(number)] =
      c10::IValue::make_capsule(c10::make_intrusive<RemadeOutput>(std::move(make)));
}

RemadeOutputPtr offered_output(const AutogradContext& ctx, uint32_t number) {
  const auto found = ctx.saved_data.find(kOffer + std::to_string(number));
  if (found == ctx.saved_data.end()) return nullptr;
  return c10::static_intrusive_pointer_cast<RemadeOutput>(found->second.toCapsule());
}

void let_go_of_outputs(AutogradContext* ctx) {
  for (const auto& [name, value] : ctx->saved_data) {
    if (name.starts_with(kOffer)) remade(value).let_go();
  }
}

Tensor to_save(AutogradContext* ctx, const char* name, const Tensor& x) {
  torch::autograd::Node* const node = x.grad_fn().get();
  // What was changed in place since it was made cannot be made again.
  if (node == nullptr || x._version() != 0) return x;
  for (const auto output_of : {rms_norm_output, rope_output, swiglu_output}) {
    if (RemadeOutputPtr output = output_of(node, x.output_nr())) {
      ctx->saved_data[name] = c10::IValue::make_capsule(std::move(output));
      return {};
    }
  }
  return x;
}

Tensor from_saved(AutogradContext* ctx, const char* name, const Tensor& saved) {
  if (saved.defined()) return saved;
  if (at::GradMode::is_enabled()) {
    throw Error(
        "[ops] expected first derivatives only of what is made again in the backward pass, got a "
        "backward pass that builds a graph; use the operators of crnet::plain");
  }
  return remade(ctx->saved_data.at(name)).read();
}

}  // namespace crnet
