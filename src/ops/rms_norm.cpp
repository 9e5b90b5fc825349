#include "crnet/ops/rms_norm.h"

#include "ops/cpu/dispatch.h"

namespace crnet {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;

class RmsNormCpu : public torch::autograd::Function<RmsNormCpu> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& weight,
                        double epsilon) {
    const int64_t columns = x.size(-1), rows = x.numel() / std::max<int64_t>(columns, 1);
    Tensor y = torch::empty_like(x);
    Tensor rstd = torch::empty({rows}, x.options().dtype(torch::kFloat32));
    cpu::with_element_type(x, [&](auto element) {
      using T = decltype(element);
      at::parallel_for(0, rows, cpu::grain_rows(columns), [&](int64_t first, int64_t last) {
        cpu::kernels<T>().rms_norm(
            cpu::const_data<T>(x) + first * columns, cpu::const_data<float>(weight),
            cpu::data<T>(y) + first * columns, cpu::data<float>(rstd) + first, last - first,
            columns, static_cast<float>(epsilon));
      });
    });
    ctx->save_for_backward({x, weight, rstd});
    return y;
  }

  static tensor_list backward(AutogradContext* ctx, tensor_list grad_outputs) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &weight = saved[1], &rstd = saved[2];
    const Tensor dy = grad_outputs[0].contiguous();
    const int64_t columns = x.size(-1), rows = rstd.numel();
    const int64_t pieces = cpu::num_partial_sums(rows);
    const int64_t piece = (rows + pieces - 1) / pieces;
    Tensor dx = torch::empty_like(x);
    Tensor partial = torch::zeros({pieces, columns}, rstd.options());
    cpu::with_element_type(x, [&](auto element) {
      using T = decltype(element);
      at::parallel_for(0, pieces, 1, [&](int64_t first, int64_t last) {
        for (int64_t p = first; p < last; ++p) {
          const int64_t begin = std::min(p * piece, rows), end = std::min(begin + piece, rows);
          cpu::kernels<T>().rms_norm_backward(
              cpu::const_data<T>(dy) + begin * columns, cpu::const_data<T>(x) + begin * columns,
              cpu::const_data<float>(weight), cpu::const_data<float>(rstd) + begin,
              cpu::data<T>(dx) + begin * columns, cpu::data<float>(partial) + p * columns,
              end - begin, columns);
        }
      });
    });
    return {dx, partial.sum(0), Tensor()};
  }
};

}  // namespace

Tensor rms_norm(const Tensor& x, const Tensor& weight, double epsilon) {
  if (cpu::takes(x) && cpu::takes(weight) && weight.scalar_type() == torch::kFloat32) {
    return RmsNormCpu::apply(x, weight, epsilon);
  }
  return plain::rms_norm(x, weight, epsilon);
}

namespace plain {

Tensor rms_norm(const Tensor& x, const Tensor& weight, double epsilon) {
  const auto wide = torch::promote_types(x.scalar_type(), torch::kFloat32);
  const Tensor v = x.to(wide);
  const Tensor normed = v * torch::rsqrt(v.square().mean(-1, /*keepdim=*/true) + epsilon);
  return (normed * weight).to(x.scalar_type());
}

}  // namespace plain
}  // namespace crnet
