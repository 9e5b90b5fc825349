#include "crnet/ops/rms_norm.h"

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

// What the backward pass needs of the forward pass beside x.
struct Normed {
  Tensor y;     // like x
  Tensor rstd;  // [rows], fp32 or wider
};

torch::ScalarType wide_type(const Tensor& x) {
  return torch::promote_types(x.scalar_type(), torch::kFloat32);
}

bool cpu_takes(const Tensor& x, const Tensor& weight) {
  return cpu::takes(x) && cpu::takes(weight) && weight.scalar_type() == torch::kFloat32;
}

Normed forward_cpu(const Tensor& x, const Tensor& weight, double epsilon) {
  const int64_t columns = x.size(-1), rows = x.numel() / std::max<int64_t>(columns, 1);
  Tensor y = torch::empty_like(x);
  Tensor rstd = torch::empty({rows}, x.options().dtype(torch::kFloat32));
  cpu::with_element_type(x, [&](auto element) {
    using T = decltype(element);
    parallel_for(0, rows, cpu::grain_rows(columns), [&](int64_t first, int64_t last) {
      cpu::kernels<T>().rms_norm(cpu::const_data<T>(x) + first * columns,
                                 cpu::const_data<float>(weight), cpu::data<T>(y) + first * columns,
                                 cpu::data<float>(rstd) + first, last - first, columns,
                                 static_cast<float>(epsilon));
    });
  });
  return {y, rstd};
}

Normed forward_cuda(const Tensor& x, const Tensor& weight, double epsilon) {
  const int64_t columns = x.size(-1), rows = x.numel() / std::max<int64_t>(columns, 1);
  Normed normed{torch::empty_like(x), torch::empty({rows}, x.options().dtype(torch::kFloat32))};
  cuda::with_stream(x, [&](auto element, cuda::Stream stream) {
    using T = decltype(element);
    cuda::rms_norm(cuda::const_data<T>(x), cuda::const_data<float>(weight), cuda::data<T>(normed.y),
                   cuda::data<float>(normed.rstd), rows, columns, static_cast<float>(epsilon),
                   stream);
  });
  return normed;
}

Normed forward_plain(const Tensor& x, const Tensor& weight, double epsilon) {
  const Tensor v = x.to(wide_type(x));
  const Tensor rstd = torch::rsqrt(v.square().mean(-1, /*keepdim=*/true) + epsilon);
  return {(v * rstd * weight).to(x.scalar_type()), rstd.flatten()};
}

Normed forward_on_device(const Tensor& x, const Tensor& weight, double epsilon) {
  if (cpu_takes(x, weight)) return forward_cpu(x, weight, epsilon);
  if (cuda::takes_with_fp32(x, weight)) return forward_cuda(x, weight, epsilon);
  return forward_plain(x, weight, epsilon);
}

struct Gradients {
  Tensor x, weight;
};

Gradients backward_cpu(const Tensor& dy, const Tensor& x, const Tensor& weight,
                       const Tensor& rstd) {
  const int64_t columns = x.size(-1), rows = rstd.numel();
  const int64_t pieces = cpu::num_partial_sums(rows);
  const int64_t piece = (rows + pieces - 1) / pieces;
  Tensor dx = torch::empty_like(x);
  Tensor partial = torch::zeros({pieces, columns}, rstd.options());
  cpu::with_element_type(x, [&](auto element) {
    using T = decltype(element);
    parallel_for(0, pieces, 1, [&](int64_t first, int64_t last) {
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
  return {dx, partial.sum(0)};
}

Gradients backward_cuda(const Tensor& dy, const Tensor& x, const Tensor& weight,
                        const Tensor& rstd) {
  const int64_t columns = x.size(-1), rows = rstd.numel();
  Tensor dx = torch::empty_like(x);
  Tensor partial = torch::empty({cuda::num_partial_rows(rows, columns), columns}, rstd.options());
  cuda::with_stream(x, [&](auto element, cuda::Stream stream) {
    using T = decltype(element);
    cuda::rms_norm_backward(cuda::const_data<T>(dy), cuda::const_data<T>(x),
                            cuda::const_data<float>(weight), cuda::const_data<float>(rstd),
                            cuda::data<T>(dx), cuda::data<float>(partial), rows, columns, stream);
  });
  return {dx, partial.sum(0)};
}

Gradients backward_plain(const Tensor& dy, const Tensor& x, const Tensor& weight,
                         const Tensor& rstd) {
  const int64_t columns = x.size(-1);
  const Tensor r = rstd.unsqueeze(1);                                         // [rows, 1]
  const Tensor normed = x.reshape({-1, columns}).to(rstd.scalar_type()) * r;  // [rows, C]
  const Tensor g = dy.reshape({-1, columns}).to(rstd.scalar_type());
  const Tensor weighted = g * weight;
  const Tensor dx = r * (weighted - normed * (weighted * normed).mean(-1, /*keepdim=*/true));
  return {dx.to(x.scalar_type()).view_as(x), (g * normed).sum(0).to(weight.scalar_type())};
}

Gradients backward_on_device(const Tensor& dy, const Tensor& x, const Tensor& weight,
                             const Tensor& rstd) {
  if (cpu_takes(x, weight)) return backward_cpu(dy.contiguous(), x, weight, rstd);
  if (cuda::takes_with_fp32(x, weight)) return backward_cuda(dy.contiguous(), x, weight, rstd);
  return backward_plain(dy, x, weight, rstd);
}

class RmsNorm : public torch::autograd::Function<RmsNorm> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& weight,
                        double epsilon) {
    RECORD_USER_SCOPE("crnet::rms_norm");
    const Normed normed = forward_on_device(x, weight, epsilon);
    ctx->save_for_backward({to_save(ctx, "x", x), weight, normed.rstd});
    ctx->saved_data["epsilon"] = epsilon;
    offer_output<RmsNorm>(ctx);
    return normed.y;
  }

  static Tensor remake(AutogradContext* ctx) {
    const auto saved = ctx->get_saved_variables();
    return forward_on_device(from_saved(ctx, "x", saved[0]), saved[1],
                             ctx->saved_data["epsilon"].toDouble())
        .y;
  }

  static tensor_list backward(AutogradContext* ctx, tensor_list grad_outputs) {
    RECORD_USER_SCOPE("crnet::rms_norm_backward");
    let_go_of_output(ctx);
    const auto saved = ctx->get_saved_variables();
    const Tensor x = from_saved(ctx, "x", saved[0]);
    const Tensor &weight = saved[1], &rstd = saved[2];
    const Gradients gradients = backward_on_device(grad_outputs[0], x, weight, rstd);
    return {gradients.x, gradients.weight, Tensor()};
  }
};

}  // namespace

RemadeOutputPtr rms_norm_output(torch::autograd::Node* node) {
  return output_offered_by<RmsNorm>(node);
}

Tensor rms_norm(const Tensor& x, const Tensor& weight, double epsilon) {
  if (x.dim() < 1 || weight.dim() != 1 || weight.size(0) != x.size(-1)) {
    std::ostringstream text;
    text << "[rms_norm] expected x [..., C] and weight [C], got " << x.sizes() << " and "
         << weight.sizes();
    throw Error(text.str());
  }
  return RmsNorm::apply(x, weight, epsilon);
}

namespace plain {

Tensor rms_norm(const Tensor& x, const Tensor& weight, double epsilon) {
  const Tensor v = x.to(wide_type(x));
  const Tensor normed = v * torch::rsqrt(v.square().mean(-1, /*keepdim=*/true) + epsilon);
  return (normed * weight).to(x.scalar_type());
}

}  // namespace plain
}  // namespace crnet
