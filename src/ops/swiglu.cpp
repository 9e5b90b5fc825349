#include "crnet/ops/swiglu.h"

#include "ops/cpu/dispatch.h"

namespace crnet {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;

constexpr int64_t kGrain = 16384;

class SwigluCpu : public torch::autograd::Function<SwigluCpu> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& gate, const Tensor& up) {
    Tensor y = torch::empty_like(gate);
    cpu::with_element_type(gate, [&](auto element) {
      using T = decltype(element);
      at::parallel_for(0, gate.numel(), kGrain, [&](int64_t first, int64_t last) {
        cpu::kernels<T>().swiglu(cpu::const_data<T>(gate) + first, cpu::const_data<T>(up) + first,
                                 cpu::data<T>(y) + first, last - first);
      });
    });
    ctx->save_for_backward({gate, up});
    return y;
  }

  static tensor_list backward(AutogradContext* ctx, tensor_list grad_outputs) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &gate = saved[0], &up = saved[1];
    const Tensor dy = grad_outputs[0].contiguous();
    Tensor dgate = torch::empty_like(gate), dup = torch::empty_like(up);
    cpu::with_element_type(gate, [&](auto element) {
      using T = decltype(element);
      at::parallel_for(0, gate.numel(), kGrain, [&](int64_t first, int64_t last) {
        cpu::kernels<T>().swiglu_backward(
            cpu::const_data<T>(dy) + first, cpu::const_data<T>(gate) + first,
            cpu::const_data<T>(up) + first, cpu::data<T>(dgate) + first, cpu::data<T>(dup) + first,
            last - first);
      });
    });
    return {dgate, dup};
  }
};

}  // namespace

Tensor swiglu(const Tensor& gate, const Tensor& up) {
  if (cpu::takes(gate, up)) return SwigluCpu::apply(gate, up);
  return plain::swiglu(gate, up);
}

namespace plain {

Tensor swiglu(const Tensor& gate, const Tensor& up) { return torch::silu(gate) * up; }

}  // namespace plain
}  // namespace crnet
