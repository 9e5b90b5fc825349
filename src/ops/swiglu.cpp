#include "crnet/ops/swiglu.h"

#include <sstream>

#include "crnet/core/error.h"
#include "ops/cpu/dispatch.h"
#include "ops/cuda/dispatch.h"
#include "ops/parallel.h"
#include "ops/remade.h"

namespace crnet {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;

constexpr int64_t kGrain = 16384;

Tensor forward_cpu(const Tensor& gate, const Tensor& up) {
  Tensor y = torch::empty_like(gate);
  cpu::with_element_type(gate, [&](auto element) {
    using T = decltype(element);
    parallel_for(0, gate.numel(), kGrain, [&](int64_t first, int64_t last) {
      cpu::kernels<T>().swiglu(cpu::const_data<T>(gate) + first, cpu::const_data<T>(up) + first,
                               cpu::data<T>(y) + first, last - first);
    });
  });
  return y;
}

tensor_list backward_cpu(const Tensor& dy, const Tensor& gate, const Tensor& up) {
  Tensor dgate = torch::empty_like(gate), dup = torch::empty_like(up);
  cpu::with_element_type(gate, [&](auto element) {
    using T = decltype(element);
    parallel_for(0, gate.numel(), kGrain, [&](int64_t first, int64_t last) {
      cpu::kernels<T>().swiglu_backward(cpu::const_data<T>(dy) + first,
                                        cpu::const_data<T>(gate) + first,
                                        cpu::const_data<T>(up) + first, cpu::data<T>(dgate) + first,
                                        cpu::data<T>(dup) + first, last - first);
    });
  });
  return {dgate, dup};
}

Tensor forward_cuda(const Tensor& gate, const Tensor& up) {
  Tensor y = torch::empty_like(gate);
  cuda::with_stream(gate, [&](auto element, cuda::Stream stream) {
    using T = decltype(element);
    cuda::swiglu(cuda::const_data<T>(gate), cuda::const_data<T>(up), cuda::data<T>(y), gate.numel(),
                 stream);
  });
  return y;
}

tensor_list backward_cuda(const Tensor& dy, const Tensor& gate, const Tensor& up) {
  Tensor dgate = torch::empty_like(gate), dup = torch::empty_like(up);
  cuda::with_stream(gate, [&](auto element, cuda::Stream stream) {
    using T = decltype(element);
    cuda::swiglu_backward(cuda::const_data<T>(dy), cuda::const_data<T>(gate),
                          cuda::const_data<T>(up), cuda::data<T>(dgate), cuda::data<T>(dup),
                          gate.numel(), stream);
  });
  return {dgate, dup};
}

Tensor forward_on_device(const Tensor& gate, const Tensor& up) {
  if (cpu::takes(gate, up)) return forward_cpu(gate, up);
  return cuda::takes(gate, up) ? forward_cuda(gate, up) : plain::swiglu(gate, up);
}

class Swiglu : public torch::autograd::Function<Swiglu> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& gate, const Tensor& up) {
    RECORD_USER_SCOPE("crnet::swiglu");
    ctx->save_for_backward({gate, up});
    offer_output<Swiglu>(ctx);
    return forward_on_device(gate, up);
  }

  static Tensor remake(AutogradContext* ctx) {
    const auto saved = ctx->get_saved_variables();
    return forward_on_device(saved[0], saved[1]);
  }

  static tensor_list backward(AutogradContext* ctx, tensor_list grad_outputs) {
    RECORD_USER_SCOPE("crnet::swiglu_backward");
    let_go_of_output(ctx);
    const auto saved = ctx->get_saved_variables();
    const Tensor &gate = saved[0], &up = saved[1], &dy = grad_outputs[0];
    if (cpu::takes(gate, up)) return backward_cpu(dy.contiguous(), gate, up);
    if (cuda::takes(gate, up)) return backward_cuda(dy.contiguous(), gate, up);
    return {at::silu_backward(dy * up, gate), dy * torch::silu(gate)};
  }
};

}  // namespace

RemadeOutputPtr swiglu_output(torch::autograd::Node* node) {
  return output_offered_by<Swiglu>(node);
}

Tensor swiglu(const Tensor& gate, const Tensor& up) {
  if (gate.sizes() != up.sizes() || gate.scalar_type() != up.scalar_type()) {
    std::ostringstream text;
    text << "[swiglu] expected gate and up of one shape and dtype, got " << gate.sizes() << " "
         << gate.scalar_type() << " and " << up.sizes() << " " << up.scalar_type();
    throw Error(text.str());
  }
  return Swiglu::apply(gate, up);
}

namespace plain {

Tensor swiglu(const Tensor& gate, const Tensor& up) {
  return torch::silu(gate) * up;
}

}  // namespace plain
}  // namespace crnet
