#include "ops/remade.h"

#include <ATen/core/grad_mode.h>
#include <ATen/record_function.h>

namespace crnet {

using torch::Tensor;
using torch::autograd::AutogradContext;

namespace {

RemadeOutput& remade(const c10::IValue& value) {
  return static_cast<RemadeOutput&>(*value.toCapsule());
}

}  // namespace

Tensor RemadeOutput::read() {
  if (!output_.defined()) {
    RECORD_USER_SCOPE("crnet::remake");
    const at::NoGradGuard no_grad;
    output_ = make_();
  }
  return output_;
}

void let_go_of_output(AutogradContext* ctx) {
  remade(ctx->saved_data.at("output")).let_go();
}

Tensor to_save(AutogradContext* ctx, const char* name, const Tensor& x) {
  torch::autograd::Node* const node = x.grad_fn().get();
  if (node == nullptr) return x;
  for (const auto output_of : {residual_sum_output, rms_norm_output, rope_output, swiglu_output}) {
    if (RemadeOutputPtr output = output_of(node)) {
      ctx->saved_data[name] = c10::IValue::make_capsule(std::move(output));
      return {};
    }
  }
  return x;
}

Tensor from_saved(AutogradContext* ctx, const char* name, const Tensor& saved) {
  return saved.defined() ? saved : remade(ctx->saved_data.at(name)).read();
}

}  // namespace crnet
