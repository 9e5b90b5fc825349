// The operator of CR-Net: the previous block's output of the same projection, scaled, plus a
// low-rank product. Shapes: N tokens (any leading dimensions), R low rank.
#pragma once

#include <torch/custom_class.h>
#include <torch/types.h>

#include <functional>
#include <utility>

namespace crnet {

/// c(β) = sign(β) · (|β| + ε) with sign(0) = +1 (arXiv 2509.18993): never zero, so that the
/// residual can be inverted. β: fp32 scalar tensor []; the result has its dtype. dc/dβ = 1
/// everywhere.
torch::Tensor signed_scale(const torch::Tensor& beta, double epsilon);

/// Y = c(β) · Y_prev + (X A) B: matrix_product() of X and A, and cross_layer_sum().
///
/// x [..., in] and y_prev [..., out] share a floating dtype, which is also that of the result
/// [..., out] and of the products; A [in, R], B [R, out] and beta [] may be of a wider one (fp32
/// masters under bf16 compute) and get gradients of their own dtype. For the backward pass it keeps
/// x, x A, y_prev and the factors as matrix_product() does, and nothing else; of an x that is the
/// result of rms_norm, residual_rms_norm, swiglu or rope nothing either, since that operator makes
/// it again.
///
/// Gradients: dβ = Σ dY ⊙ Y_prev (summed in at least fp32), dY_prev = c dY, dB = (XA)ᵀ dY,
/// dA = Xᵀ (dY Bᵀ), dX = (dY Bᵀ) Aᵀ.
///
/// Throws crnet::Error on shapes that do not fit, naming them.
torch::Tensor low_rank_residual(const torch::Tensor& x, const torch::Tensor& A,
                                const torch::Tensor& B, const torch::Tensor& y_prev,
                                const torch::Tensor& beta, double epsilon);

/// A tensor that is made when it is first needed.
class LaterTensor : public torch::CustomClassHolder {
 public:
  explicit LaterTensor(std::function<torch::Tensor()> make) : make_(std::move(make)) {}
  [[nodiscard]] bool is_taken() const { return !make_; }
  /// Once only; lets go of what it was made from.
  torch::Tensor take() { return std::exchange(make_, nullptr)(); }

 private:
  std::function<torch::Tensor()> make_;
};

/// Products of a forward pass that may be held, so that nobody multiplies again.
struct LowRankProducts {
  torch::Tensor low;  ///< X A [..., R]
  torch::Tensor y;    ///< Y [..., out]
  /// Where set, y_prev is given as a placeholder of its shape and dtype, with any values, and the
  /// backward pass takes the true one from here. `y` must be held then.
  c10::intrusive_ptr<LaterTensor> y_prev;
};

/// As above. What `products` holds is taken in place of multiplying; what it lacks is computed and
/// left there, without a graph. A given `y` is believed: it decides the value, not the gradients.
torch::Tensor low_rank_residual(const torch::Tensor& x, const torch::Tensor& A,
                                const torch::Tensor& B, const torch::Tensor& y_prev,
                                const torch::Tensor& beta, double epsilon,
                                LowRankProducts& products);

/// Y = c(β) · Y_prev + low · B, low [..., R] = X A of y_prev's dtype: the second half of
/// low_rank_residual(), for projections that share the first (see matrix_products()). Of `products`
/// it takes all but `low`. `width`: of y_prev's rows where they are wider than B's, as
/// matrix_products() has it.
torch::Tensor cross_layer_sum(const torch::Tensor& low, const torch::Tensor& B,
                              const torch::Tensor& y_prev, const torch::Tensor& beta,
                              double epsilon, LowRankProducts& products, int64_t width = 0);

/// Y from a held X A, to the bit what the forward pass gave. Without a graph. y_prev's rows may be
/// wider than B's here and below.
torch::Tensor replay_low_rank_residual(const torch::Tensor& low, const torch::Tensor& B,
                                       const torch::Tensor& y_prev, const torch::Tensor& beta,
                                       double epsilon);

/// Y_prev = (Y − (X A) B) / c (arXiv 2509.18993) from a held X A. The product and the result are
/// rounded to the dtype of y [..., out]; the error of Y and of the product grow by 1/|c|. Without a
/// graph.
torch::Tensor invert_low_rank_residual(const torch::Tensor& low, const torch::Tensor& B,
                                       const torch::Tensor& y, double c);

namespace plain {
/// The same from LibTorch's own differentiable operators: reference and fallback.
torch::Tensor low_rank_residual(const torch::Tensor& x, const torch::Tensor& A,
                                const torch::Tensor& B, const torch::Tensor& y_prev,
                                const torch::Tensor& beta, double epsilon);
}  // namespace plain

}  // namespace crnet
