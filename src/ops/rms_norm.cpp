#include "crnet/ops/rms_norm.h"

#include <algorithm>
#include <optional>
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

struct Normed {
  Tensor sum;   // like x; undefined where nothing is added
  Tensor y;     // like x
  Tensor rstd;  // [rows], fp32 or wider
};

// `delta` may be undefined.
Normed empty_results(const Tensor& x, const Tensor& delta) {
  const int64_t rows = x.numel() / std::max<int64_t>(x.size(-1), 1);
  return {delta.defined() ? torch::empty_like(x) : Tensor(), torch::empty_like(x),
          torch::empty({rows}, x.options().dtype(torch::kFloat32))};
}

torch::ScalarType wide_type(const Tensor& x) {
  return torch::promote_types(x.scalar_type(), torch::kFloat32);
}

bool cpu_takes(const Tensor& x, const Tensor& weight) {
  return cpu::takes(x) && cpu::takes(weight) && weight.scalar_type() == torch::kFloat32;
}

Normed forward_cpu(const Tensor& x, const Tensor& delta, const Tensor& weight, double epsilon) {
  const int64_t columns = x.size(-1);
  Normed normed = empty_results(x, delta);
  cpu::with_element_type(x, [&](auto element) {
    using T = decltype(element);
    const auto from_row = [&](const Tensor& t, int64_t row) {
      return t.defined() ? cpu::data<T>(t) + row * columns : nullptr;
    };
    parallel_for(
        0, normed.rstd.numel(), cpu::grain_rows(columns), [&](int64_t first, int64_t last) {
          cpu::kernels<T>().rms_norm(from_row(x, first), from_row(delta, first),
                                     cpu::const_data<float>(weight), from_row(normed.sum, first),
                                     from_row(normed.y, first),
                                     cpu::data<float>(normed.rstd) + first, last - first, columns,
                                     static_cast<float>(epsilon));
        });
  });
  return normed;
}

Normed forward_cuda(const Tensor& x, const Tensor& delta, const Tensor& weight, double epsilon) {
  Normed normed = empty_results(x, delta);
  cuda::with_stream(x, [&](auto element, cuda::Stream stream) {
    using T = decltype(element);
    cuda::rms_norm(cuda::const_data<T>(x), cuda::const_data_or_null<T>(delta),
                   cuda::const_data<float>(weight), cuda::data_or_null<T>(normed.sum),
                   cuda::data<T>(normed.y), cuda::data<float>(normed.rstd), normed.rstd.numel(),
                   x.size(-1), static_cast<float>(epsilon), stream);
  });
  return normed;
}

Normed forward_plain(const Tensor& x, const Tensor& delta, const Tensor& weight, double epsilon) {
  const Tensor sum = delta.defined() ? x + delta : Tensor();
  const Tensor v = (delta.defined() ? sum : x).to(wide_type(x));
  const Tensor rstd = torch::rsqrt(v.square().mean(-1, /*keepdim=*/true) + epsilon);
  return {sum, (v * rstd * weight).to(x.scalar_type()), rstd.flatten()};
}

Normed forward_on_device(const Tensor& x, const Tensor& delta, const Tensor& weight,
                         double epsilon) {
  const Tensor& added = delta.defined() ? delta : x;  // nothing is asked of an undefined tensor
  if (cpu_takes(x, weight) && cpu::takes(x, added)) return forward_cpu(x, delta, weight, epsilon);
  if (cuda::takes_with_fp32(x, weight) && cuda::takes(x, added)) {
    return forward_cuda(x, delta, weight, epsilon);
  }
  return forward_plain(x, delta, weight, epsilon);
}

struct Gradients {
  Tensor x, weight;
};

// x: what was normed; dsum: its other gradient, or undefined.
Gradients backward_cpu(const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& rstd,
                       const Tensor& dsum) {
  const int64_t columns = x.size(-1), rows = rstd.numel();
  const int64_t pieces = cpu::num_partial_sums(rows);
  const int64_t piece = (rows + pieces - 1) / pieces;
  Tensor dx = torch::empty_like(x);
  Tensor partial = torch::zeros({pieces, columns}, rstd.options());
  cpu::with_element_type(x, [&](auto element) {
    using T = decltype(element);
    const T* const other = cpu::const_data_or_null<T>(dsum);
    parallel_for(0, pieces, 1, [&](int64_t first, int64_t last) {
      for (int64_t p = first; p < last; ++p) {
        const int64_t begin = std::min(p * piece, rows), end = std::min(begin + piece, rows);
        cpu::kernels<T>().rms_norm_backward(
            cpu::const_data<T>(dy) + begin * columns, cpu::const_data<T>(x) + begin * columns,
            cpu::const_data<float>(weight), cpu::const_data<float>(rstd) + begin,
            other == nullptr ? nullptr : other + begin * columns,
            cpu::data<T>(dx) + begin * columns, cpu::data<float>(partial) + p * columns,
            end - begin, columns);
      }
    });
  });
  return {dx, partial.sum(0)};
}

Gradients backward_cuda(const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& rstd,
                        const Tensor& dsum) {
  const int64_t columns = x.size(-1), rows = rstd.numel();
  Tensor dx = torch::empty_like(x);
  Tensor partial = torch::empty({cuda::num_partial_rows(rows, columns), columns}, rstd.options());
  cuda::with_stream(x, [&](auto element, cuda::Stream stream) {
    using T = decltype(element);
    cuda::rms_norm_backward(cuda::const_data<T>(dy), cuda::const_data<T>(x),
                            cuda::const_data<float>(weight), cuda::const_data<float>(rstd),
                            cuda::const_data_or_null<T>(dsum), cuda::data<T>(dx),
                            cuda::data<float>(partial), rows, columns, stream);
  });
  return {dx, partial.sum(0)};
}

Gradients backward_plain(const Tensor& dy, const Tensor& x, const Tensor& weight,
                         const Tensor& rstd, const Tensor& dsum) {
  const int64_t columns = x.size(-1);
  const Tensor r = rstd.unsqueeze(1);                                         // [rows, 1]
  const Tensor normed = x.reshape({-1, columns}).to(rstd.scalar_type()) * r;  // [rows, C]
  const Tensor g = dy.reshape({-1, columns}).to(rstd.scalar_type());
  const Tensor weighted = g * weight;
  Tensor dx = r * (weighted - normed * (weighted * normed).mean(-1, /*keepdim=*/true));
  if (dsum.defined()) dx = dx + dsum.reshape({-1, columns});
  return {dx.to(x.scalar_type()).view_as(x), (g * normed).sum(0).to(weight.scalar_type())};
}

Gradients backward_on_device(const Tensor& dy, const Tensor& x, const Tensor& weight,
                             const Tensor& rstd, const Tensor& dsum) {
  const Tensor gradient = dy.contiguous(), other = dsum.defined() ? dsum.contiguous() : dsum;
  if (cpu_takes(x, weight)) return backward_cpu(gradient, x, weight, rstd, other);
  if (cuda::takes_with_fp32(x, weight)) return backward_cuda(gradient, x, weight, rstd, other);
  return backward_plain(gradient, x, weight, rstd, other);
}

// Gives the norm and, where `gives_sum`, what was normed, x + delta.
class RmsNorm : public torch::autograd::Function<RmsNorm> {
 public:
  // LibTorch's functions take no undefined tensor.
  static tensor_list forward(AutogradContext* ctx, const Tensor& x,
                             const std::optional<Tensor>& added, const Tensor& weight,
                             double epsilon, bool gives_sum) {
    RECORD_USER_SCOPE("crnet::rms_norm");
    ctx->set_materialize_grads(false);
    const Tensor delta = added.value_or(Tensor());
    const Normed normed = forward_on_device(x, delta, weight, epsilon);
    ctx->save_for_backward({to_save(ctx, "x", x), delta, weight, normed.rstd});
    ctx->saved_data["epsilon"] = epsilon;
    offer_output(
        ctx, [ctx] { return remake(ctx); }, kNormed);
    if (!gives_sum) return {normed.y};
    if (!delta.defined()) return {normed.y, x};
    offer_output(
        ctx, [ctx] { return Inputs(ctx).added(); }, kSum);
    return {normed.y, normed.sum};
  }

  static tensor_list backward(AutogradContext* ctx, tensor_list grad_outputs) {
    RECORD_USER_SCOPE("crnet::rms_norm_backward");
    const Inputs in(ctx);
    const Tensor& dy = grad_outputs[kNormed];
    const Tensor dsum = grad_outputs.size() > 1 ? grad_outputs[kSum] : Tensor();
    const Tensor summed =
        in.delta.defined() && dy.defined() ? offered_output(*ctx, kSum)->read() : in.x;
    let_go_of_outputs(ctx);
    const Gradients gradients = dy.defined()
                                    ? backward_on_device(dy, summed, in.weight, in.rstd, dsum)
                                    : Gradients{dsum, {}};
    return {gradients.x, in.delta.defined() ? gradients.x : Tensor(), gradients.weight, Tensor(),
            Tensor()};
  }

 private:
  static constexpr uint32_t kNormed = 0, kSum = 1;

  struct Inputs {
    explicit Inputs(AutogradContext* ctx) : Inputs(ctx, ctx->get_saved_variables()) {}
    [[nodiscard]] Tensor added() const { return x + delta; }
    Tensor x, delta, weight, rstd;

   private:
    Inputs(AutogradContext* ctx, const tensor_list& saved)
        : x(from_saved(ctx, "x", saved[0])), delta(saved[1]), weight(saved[2]), rstd(saved[3]) {}
  };

  static Tensor remake(AutogradContext* ctx) {
    const Inputs in(ctx);
    const Normed normed =
        forward_on_device(in.x, in.delta, in.weight, ctx->saved_data["epsilon"].toDouble());
    if (in.delta.defined()) offered_output(*ctx, kSum)->set(normed.sum);
    return normed.y;
  }
};

void check(const Tensor& x, const Tensor& delta, const Tensor& weight) {
  const bool fits = x.dim() >= 1 && weight.dim() == 1 && weight.size(0) == x.size(-1);
  const bool adds_up =
      !delta.defined() || (delta.sizes() == x.sizes() && delta.scalar_type() == x.scalar_type());
  if (fits && adds_up) return;
  std::ostringstream text;
  text << "[rms_norm] expected x [..., C]" << (delta.defined() ? ", delta like x" : "")
       << " and weight [C], got " << x.sizes();
  if (delta.defined()) {
    text << " " << x.scalar_type() << ", " << delta.sizes() << " " << delta.scalar_type();
  }
  text << " and " << weight.sizes();
  throw Error(text.str());
}

}  // namespace

RemadeOutputPtr rms_norm_output(torch::autograd::Node* node, uint32_t number) {
  return output_offered_by<RmsNorm>(node, number);
}

Tensor rms_norm(const Tensor& x, const Tensor& weight, double epsilon) {
  check(x, {}, weight);
  return RmsNorm::apply(x, std::nullopt, weight, epsilon, /*gives_sum=*/false)[0];
}

ResidualNorm residual_rms_norm(const Tensor& x, const Tensor& delta, const Tensor& weight,
                               double epsilon) {
  check(x, delta, weight);
  const auto added = delta.defined() ? std::optional(delta) : std::nullopt;
  const auto results = RmsNorm::apply(x, added, weight, epsilon, /*gives_sum=*/true);
  return {results[1], results[0]};
}

namespace plain {

Tensor rms_norm(const Tensor& x, const Tensor& weight, double epsilon) {
  const Tensor v = x.to(wide_type(x));
  const Tensor normed = v * torch::rsqrt(v.square().mean(-1, /*keepdim=*/true) + epsilon);
  return (normed * weight).to(x.scalar_type());
}

}  // namespace plain
}  // namespace crnet
