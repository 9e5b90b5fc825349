#include "crnet/ops/low_rank_residual.h"

#include <algorithm>
#include <sstream>

#include "crnet/core/error.h"
#include "crnet/ops/matrix_product.h"
#include "ops/carried_gradient.h"
#include "ops/cpu/dispatch.h"
#include "ops/cross_layer.h"
#include "ops/cuda/dispatch.h"
#include "ops/parallel.h"
#include "ops/product.h"

namespace crnet {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;

void describe_y_prev(std::ostream& text, const Tensor& y_prev) {
  text << ", y_prev ";
  if (y_prev.defined()) {
    text << y_prev.sizes() << " " << y_prev.scalar_type();
  } else {
    text << "undefined (a layer after the first block needs the previous block's output)";
  }
}

// Whether y_prev [..., out] goes with what is multiplied by B [R, out].
bool fits_below(const Tensor& x, const Tensor& B, const Tensor& y_prev, int64_t width = 0) {
  return y_prev.defined() && y_prev.dim() == x.dim() &&
         y_prev.size(-1) == std::max(width, B.size(1)) &&
         y_prev.sizes().slice(0, y_prev.dim() - 1) == x.sizes().slice(0, x.dim() - 1) &&
         x.scalar_type() == y_prev.scalar_type();
}

void check_residual(const Tensor& x, const Tensor& A, const Tensor& B, const Tensor& y_prev) {
  if (A.dim() == 2 && B.dim() == 2 && x.dim() >= 1 && x.size(-1) == A.size(0) &&
      A.size(1) == B.size(0) && fits_below(x, B, y_prev)) {
    return;
  }
  std::ostringstream text;
  text << "[low_rank_residual] expected x [..., in], A [in, R], B [R, out], y_prev [..., out] with "
          "x and y_prev of one dtype, got x "
       << x.sizes() << " " << x.scalar_type() << ", A " << A.sizes() << ", B " << B.sizes();
  describe_y_prev(text, y_prev);
  throw Error(text.str());
}

void check_sum(const Tensor& low, const Tensor& B, const Tensor& y_prev, int64_t width) {
  if (B.dim() == 2 && low.dim() >= 1 && low.size(-1) == B.size(0) &&
      fits_below(low, B, y_prev, width)) {
    return;
  }
  std::ostringstream text;
  text << "[cross_layer_sum] expected X A [..., R], B [R, out], y_prev [..., out] with X A and "
          "y_prev of one dtype, got X A "
       << low.sizes() << " " << low.scalar_type() << ", B " << B.sizes();
  describe_y_prev(text, y_prev);
  throw Error(text.str());
}

// (y − product) / c, where product was, in fp32 or wider and rounded once.
void subtract_and_divide(const Tensor& y, Tensor& product, double c) {
  if (cuda::takes(y, product)) {
    cuda::with_stream(y, [&](auto element, cuda::Stream stream) {
      using T = decltype(element);
      cuda::subtract_and_divide(cuda::const_data<T>(y), cuda::data<T>(product),
                                static_cast<float>(c), y.numel(), stream);
    });
    return;
  }
  if (!cpu::takes(y, product)) {
    const auto wide = y.scalar_type() == torch::kFloat64 ? torch::kFloat64 : torch::kFloat32;
    product.copy_((y.to(wide) - product) / c);
    return;
  }
  cpu::with_element_type(y, [&](auto element) {
    using T = decltype(element);
    parallel_for(0, y.numel(), 32768, [&](int64_t first, int64_t last) {
      cpu::kernels<T>().subtract_and_divide(cpu::const_data<T>(y) + first,
                                            cpu::data<T>(product) + first, static_cast<float>(c),
                                            last - first);
    });
  });
}

// c(β) without a graph; on a GPU in one launch, and with a 1 behind it in memory.
Tensor scale_of(const Tensor& beta, double epsilon) {
  if (!cuda::takes_with_fp32(beta, beta)) return signed_scale(beta, epsilon);
  Tensor scales = torch::empty({2}, beta.options());
  cuda::with_stream(beta, [&](auto /*element*/, cuda::Stream stream) {
    cuda::signed_scale(cuda::const_data<float>(beta), static_cast<float>(epsilon),
                       cuda::data<float>(scales), stream);
  });
  return scales.select(0, 0);
}

bool is_aligned(const Tensor& t) {
  return reinterpret_cast<uintptr_t>(t.const_data_ptr()) % 16 == 0;
}

// As it is, or a copy at an address that is aligned to 16 bytes.
Tensor packed(const Tensor& t) {
  const Tensor matrix = as_matrix(t).contiguous();
  return is_aligned(matrix) ? matrix : matrix.clone();
}

// The same of a matrix whose rows may lie apart.
Tensor packed_rows(const Tensor& matrix) {
  const bool is_readable = matrix.stride(1) == 1 && matrix.stride(0) >= matrix.size(1) &&
                           matrix.stride(0) * matrix.element_size() % 16 == 0 && is_aligned(matrix);
  return is_readable ? matrix : packed(matrix);
}

// Undefined where cuBLASLt does not have these sizes or dtypes. c as scale_of() makes it.
Tensor residual_product_cuda(const Tensor& low, const Tensor& b, const Tensor& y_prev,
                             const Tensor& c) {
  const auto dtype = low.scalar_type();
  if (dtype != torch::kFloat32 && dtype != torch::kBFloat16) return {};
  const Tensor left = packed_rows(low), right = packed(b), addend = packed(y_prev);
  if (!cuda::takes(right, addend) || right.scalar_type() != dtype ||
      left.device() != right.device() || !cuda::takes_with_fp32(right, c)) {
    return {};
  }
  // Of a single row the stride is any.
  const int64_t left_row = std::max(left.stride(0), left.size(1));
  Tensor y = torch::empty_like(addend);  // [N, out]
  bool done = false;
  cuda::with_stream(y, [&](auto element, cuda::Stream stream) {
    using T = decltype(element);
    done = cuda::residual_product(cuda::const_data<T>(left), left_row, cuda::const_data<T>(right),
                                  cuda::const_data<T>(addend), cuda::const_data<float>(c),
                                  cuda::data<T>(y), y.size(0), left.size(1), y.size(1), stream);
  });
  return done ? y.view(y_prev.sizes()) : Tensor();
}

// B [R, out], as wide as the rows that low · B goes to.
Tensor factor_below(const Tensor& B, const Tensor& low, const Tensor& y) {
  return as_factor(B, low, {B.size(0), y.size(-1)});
}

// c Y_prev + low B. low [N, R] and y_prev of one dtype; b [R, out] of as_factor().
Tensor residual_product(const Tensor& low, const Tensor& b, const Tensor& y_prev, const Tensor& c) {
  if (low.is_cuda()) {
    const Tensor fused = residual_product_cuda(low, b, y_prev, c);
    if (fused.defined()) return fused;
  }
  return scaled_plus_product(c, as_matrix(y_prev), low, b).view_as(y_prev);
}

class CrossLayerSum : public torch::autograd::Function<CrossLayerSum> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& low, const Tensor& B,
                        const Tensor& y_prev, const Tensor& beta, double epsilon,
                        LowRankProducts* products) {
    RECORD_USER_SCOPE("crnet::cross_layer_sum");
    const Tensor b = factor_below(B, low, y_prev);
    const Tensor c = scale_of(beta, epsilon);
    if (!products->y.defined()) products->y = residual_product(as_matrix(low), b, y_prev, c);
    ctx->save_for_backward({low, b, y_prev, c});
    if (products->y_prev) ctx->saved_data["y_prev"] = c10::IValue::make_capsule(products->y_prev);
    ctx->saved_data["master"] = static_cast<int64_t>(B.scalar_type());
    ctx->saved_data["sizes"] = B.sizes().vec();
    accept_carried<CrossLayerSum>(ctx);
    if (!products->y_prev) {
      let_open(ctx, [ctx] {
        return ctx->needs_input_grad(kBeta) ? ctx->get_saved_variables()[2] : Tensor();
      });
    }
    return products->y.variable_data();  // the result gets a graph, the held tensor none
  }

  static tensor_list backward(AutogradContext* ctx, tensor_list grad_outputs) {
    RECORD_USER_SCOPE("crnet::cross_layer_sum_backward");
    const auto saved = ctx->get_saved_variables();
    const Tensor &low = saved[0], &b = saved[1], &c = saved[3];
    const auto master = static_cast<torch::ScalarType>(ctx->saved_data["master"].toInt());
    const auto later = ctx->saved_data.find("y_prev");
    const Tensor y_prev = later == ctx->saved_data.end()
                              ? saved[2]
                              : static_cast<LaterTensor&>(*later->second.toCapsule()).take();
    const CrossLayerGradients cross = cross_layer_backward(ctx, grad_outputs[0], y_prev, c);
    const Tensor dlow = as_gradient_of(low, product_of(cross.y, b.t()));  // [..., R]
    const Tensor dB = product_as(master, as_matrix(low).t(), cross.y);    // [R, out]
    const auto sizes = ctx->saved_data["sizes"].toIntVector();
    return {dlow, without_padding(dB, sizes), cross.y_prev, cross.beta, Tensor(), Tensor()};
  }

 private:
  static constexpr uint32_t kYPrev = 2, kBeta = 3;  // among the tensors that apply() is given

  struct CrossLayerGradients {
    Tensor y;       // dY [N, out], with what was carried to it
    Tensor beta;    // Σ dY ⊙ Y_prev, like c; undefined where β is fixed
    Tensor y_prev;  // c · dY [..., out]; undefined where dY was carried on
  };

  // Whether the sum is owned is left in `carried`.
  static SummedGradient sum_with(Carried& carried, const Tensor& whole, const Tensor& below,
                                 const Tensor& c) {
    const Tensor own = as_matrix(whole);
    if (!carried.dot.defined()) {
      carried.is_owned = true;
      return add_carried(own, carried, below);
    }
    // `whole` is the sum already. It lies elsewhere where others have added to it since: autograd
    // adds to a tensor in place only if nobody else holds it, as `carried` does.
    carried.is_owned = whole.is_alias_of(carried.gradient);
    if (carried.is_owned) return {own, carried.dot};
    return {own, pass_over_gradient(CrossLayerPass::kDot, own, below, c, {})};
  }

  static CrossLayerGradients cross_layer_backward(AutogradContext* ctx, const Tensor& gradient,
                                                  const Tensor& y_prev, const Tensor& c) {
    // Not a view of what autograd handed over: who takes that over counts its references.
    const Tensor whole = gradient.contiguous(), own = as_matrix(whole);
    const Tensor below = ctx->needs_input_grad(kBeta) ? as_matrix(y_prev).contiguous() : Tensor();
    if (auto from_above = take_carried(ctx)) {
      const auto [dy, dbeta] = sum_with(*from_above, whole, below, c);
      const bool goes_on = carry(kYPrev, {dy.view(y_prev.sizes()), c, from_above->is_owned});
      return {dy, dbeta, goes_on ? Tensor() : as_gradient_of(y_prev, scaled(dy, c))};
    }
    const bool goes_on = carry(kYPrev, {whole, c, /*is_owned=*/false});
    if (goes_on && !below.defined()) return {own, {}, {}};
    if (goes_on) return {own, pass_over_gradient(CrossLayerPass::kDot, own, below, c, {}), {}};
    if (!below.defined()) return {own, {}, as_gradient_of(y_prev, scaled(own, c))};
    const Tensor dy_prev = torch::empty_like(own);
    const Tensor dbeta = pass_over_gradient(CrossLayerPass::kScale, own, below, c, dy_prev);
    return {own, dbeta, as_gradient_of(y_prev, dy_prev)};
  }
};

}  // namespace

Tensor signed_scale(const Tensor& beta, double epsilon) {
  const Tensor positive = beta + epsilon;
  return torch::where(beta >= 0, positive, beta - epsilon);
}

Tensor cross_layer_sum(const Tensor& low, const Tensor& B, const Tensor& y_prev, const Tensor& beta,
                       double epsilon, LowRankProducts& products, int64_t width) {
  check_sum(low, B, y_prev, width);
  return CrossLayerSum::apply(low, B, y_prev, beta, epsilon, &products);
}

Tensor low_rank_residual(const Tensor& x, const Tensor& A, const Tensor& B, const Tensor& y_prev,
                         const Tensor& beta, double epsilon, LowRankProducts& products) {
  check_residual(x, A, B, y_prev);
  const Tensor low = matrix_product(x, A, WeightLayout::kInOut, &products.low);
  return cross_layer_sum(low, B, y_prev, beta, epsilon, products);
}

Tensor low_rank_residual(const Tensor& x, const Tensor& A, const Tensor& B, const Tensor& y_prev,
                         const Tensor& beta, double epsilon) {
  LowRankProducts products;
  return low_rank_residual(x, A, B, y_prev, beta, epsilon, products);
}

Tensor replay_low_rank_residual(const Tensor& low, const Tensor& B, const Tensor& y_prev,
                                const Tensor& beta, double epsilon) {
  RECORD_USER_SCOPE("crnet::replay_low_rank_residual");
  const torch::NoGradGuard no_grad;
  return residual_product(as_matrix(low), factor_below(B, low, y_prev), y_prev,
                          scale_of(beta, epsilon));
}

Tensor invert_low_rank_residual(const Tensor& low, const Tensor& B, const Tensor& y, double c) {
  RECORD_USER_SCOPE("crnet::invert_low_rank_residual");
  const torch::NoGradGuard no_grad;
  // Not with 1/c as the product's own scales: oneDNN compiles a kernel for every pair of them, and
  // keeps a thousand, while c moves with every step.
  Tensor y_prev = product_of(as_matrix(low), factor_below(B, low, y)).view_as(y);
  subtract_and_divide(y, y_prev, c);
  return y_prev;
}

namespace plain {

Tensor low_rank_residual(const Tensor& x, const Tensor& A, const Tensor& B, const Tensor& y_prev,
                         const Tensor& beta, double epsilon) {
  check_residual(x, A, B, y_prev);
  const auto dtype = x.scalar_type();
  const Tensor low = torch::matmul(x, A.to(dtype));
  return signed_scale(beta, epsilon) * y_prev + torch::matmul(low, B.to(dtype));
}

}  // namespace plain
}  // namespace crnet
