#include "crnet/ops/rope.h"

#include <sstream>

#include "crnet/core/error.h"
#include "crnet/core/format.h"
#include "ops/carried_gradient.h"
#include "ops/cpu/dispatch.h"
#include "ops/cuda/dispatch.h"
#include "ops/library_attention.h"
#include "ops/parallel.h"
#include "ops/remade.h"

namespace crnet {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;

// x [B, T, H, D] from here on. direction +1 rotates forward, −1 back (which is the gradient).
// cosine, sine [T, D/2].
Tensor rotate_cpu(const Tensor& x, const Tensor& cosine, const Tensor& sine, float direction) {
  const int64_t tokens = x.size(0) * x.size(1), length = x.size(1);
  const int64_t heads = x.size(2), size = x.size(3);
  Tensor y = torch::empty_like(x);
  cpu::with_element_type(x, [&](auto element) {
    using T = decltype(element);
    const int64_t width = heads * size;
    parallel_for(0, tokens, cpu::grain_rows(width), [&](int64_t first, int64_t last) {
      for (int64_t token = first; token < last; ++token) {
        const int64_t angle = token % length * (size / 2);
        cpu::kernels<T>().rope(cpu::const_data<T>(x) + token * width,
                               cpu::const_data<float>(cosine) + angle,
                               cpu::const_data<float>(sine) + angle,
                               cpu::data<T>(y) + token * width, heads, size, direction);
      }
    });
  });
  return y;
}

Tensor rotate_cuda(const Tensor& x, const Tensor& cosine, const Tensor& sine, float direction) {
  Tensor y = torch::empty_like(x);
  cuda::with_stream(x, [&](auto element, cuda::Stream stream) {
    using T = decltype(element);
    cuda::rope(cuda::const_data<T>(x), cuda::const_data<float>(cosine),
               cuda::const_data<float>(sine), cuda::data<T>(y), x.size(0) * x.size(1), x.size(1),
               x.size(2), x.size(3), direction, stream);
  });
  return y;
}

Tensor rotate(const Tensor& x, const Tensor& cosine, const Tensor& sine, float direction) {
  return (x.is_cuda() ? rotate_cuda : rotate_cpu)(x, cosine, sine, direction);
}

// The gradient of x with what is carried to it.
Tensor rotate_back_carried(const Tensor& dy, const Tensor& cosine, const Tensor& sine,
                           const OpenGradient& to_x) {
  const Tensor dx = to_x.carried.gradient;
  const auto fp32 = to_x.carried.scale.options();
  const Tensor partial = torch::empty({cuda::kDotPartials}, fp32), dot = torch::empty({}, fp32);
  cuda::with_stream(dy, [&](auto element, cuda::Stream stream) {
    using T = decltype(element);
    cuda::rope_backward<T>(
        cuda::const_data<T>(dy), cuda::const_data<float>(cosine), cuda::const_data<float>(sine),
        {cuda::const_data<T>(to_x.y_prev), cuda::const_data<float>(to_x.carried.scale)},
        cuda::data<T>(dx), cuda::data<float>(partial), cuda::data<float>(dot),
        dy.size(0) * dy.size(1), dy.size(1), dy.size(2), dy.size(3), stream);
  });
  close_gradient(to_x, dot);
  return dx;
}

bool fits(const Tensor& x, const Tensor& cosine) {
  if (cosine.dim() != 2 || cosine.size(1) == 0) return false;
  const int64_t size = 2 * cosine.size(1);
  return (x.dim() == 4 && x.size(3) == size) || (x.dim() == 3 && x.size(2) % size == 0);
}

// [B, T, H, D] of x with or without heads.
Tensor by_heads(const Tensor& x, const Tensor& cosine) {
  return x.dim() == 4 ? x : x.unflatten(2, {-1, 2 * cosine.size(1)});
}

class FusedRope : public torch::autograd::Function<FusedRope> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& cosine,
                        const Tensor& sine, bool x_is_kept) {
    RECORD_USER_SCOPE("crnet::rope");
    const bool offers =
        x_is_kept && can_hold_attention(x.device().is_cpu(), x.scalar_type(), 2 * cosine.size(1));
    ctx->save_for_backward({cosine, sine, offers ? x : Tensor()});
    if (offers) offer_output(ctx, [ctx] { return remake(ctx); });
    ctx->saved_data["sizes"] = x.sizes().vec();
    return rotate(by_heads(x, cosine), cosine, sine, 1.0f);
  }

  static Tensor remake(AutogradContext* ctx) {
    const auto saved = ctx->get_saved_variables();
    return rotate(by_heads(saved[2], saved[0]), saved[0], saved[1], 1.0f);
  }

  static tensor_list backward(AutogradContext* ctx, tensor_list grad_outputs) {
    RECORD_USER_SCOPE("crnet::rope_backward");
    const auto saved = ctx->get_saved_variables();
    if (saved[2].defined()) let_go_of_outputs(ctx);
    const Tensor dy = grad_outputs[0].contiguous();
    const auto open = dy.is_cuda() ? open_gradients({0}, dy) : std::vector<OpenGradient>();
    const Tensor dx = open.empty() ? rotate(dy, saved[0], saved[1], -1.0f)
                                   : rotate_back_carried(dy, saved[0], saved[1], open[0]);
    return {dx.view(ctx->saved_data["sizes"].toIntVector()), Tensor(), Tensor(), Tensor()};
  }
};

}  // namespace

RemadeOutputPtr rope_output(torch::autograd::Node* node, uint32_t number) {
  return output_offered_by<FusedRope>(node, number);
}

RopeTable rope_table(int64_t length, int64_t head_size, double theta) {
  const auto exact = torch::TensorOptions().dtype(torch::kFloat64);
  const Tensor exponent = torch::arange(0, head_size, 2, exact) / static_cast<double>(head_size);
  const Tensor frequency = torch::pow(theta, -exponent);
  const Tensor angle = torch::outer(torch::arange(length, exact), frequency);
  return {angle.cos().to(torch::kFloat32), angle.sin().to(torch::kFloat32)};
}

Tensor rope(const Tensor& x, const Tensor& cosine, const Tensor& sine, int64_t offset,
            bool x_is_kept) {
  if (!fits(x, cosine) || cosine.sizes() != sine.sizes()) {
    std::ostringstream text;
    text << "[rope] expected x [B, T, H, D] or [B, T, H·D] and tables [positions, D/2], got "
         << x.sizes() << ", " << cosine.sizes() << " and " << sine.sizes();
    throw Error(text.str());
  }
  const int64_t length = x.size(1);
  if (offset + length > cosine.size(0)) {
    throw Error(format("[rope] expected at most %ld positions (model.max_sequence_length), got %ld",
                       static_cast<long>(cosine.size(0)), static_cast<long>(offset + length)));
  }
  const Tensor c = cosine.narrow(0, offset, length), s = sine.narrow(0, offset, length);
  const bool cpu_takes = cpu::takes(x) && cpu::takes(c, s) && c.scalar_type() == torch::kFloat32;
  if (cpu_takes || cuda::takes_with_fp32(x, c, s)) return FusedRope::apply(x, c, s, x_is_kept);
  return plain::rope(x, cosine, sine, offset);
}

namespace plain {

Tensor rope(const Tensor& input, const Tensor& cosine, const Tensor& sine, int64_t offset) {
  const Tensor x = by_heads(input, cosine);
  const int64_t length = x.size(1);
  const Tensor c = cosine.narrow(0, offset, length).unsqueeze(1);  // [T, 1, D/2]
  const Tensor s = sine.narrow(0, offset, length).unsqueeze(1);
  const auto halves = x.chunk(2, -1);
  return torch::cat({halves[0] * c - halves[1] * s, halves[1] * c + halves[0] * s}, -1)
      .to(x.scalar_type());
}

}  // namespace plain
}  // namespace crnet
