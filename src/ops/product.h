// Matrix products, as fast as the processor has them.
#pragma once

#include <torch/types.h>

namespace crnet {

/// Whether LibTorch's mm has nothing for this dtype but a loop over numbers: bf16 on x86 without
/// AVX-512.
[[nodiscard]] bool is_slow_in_libtorch(torch::Device device, torch::ScalarType dtype);

/// t [..., C] as [N, C].
[[nodiscard]] torch::Tensor as_matrix(const torch::Tensor& t);

/// Whether the weights of products with so many rows of `dtype` on a CPU stay fp32, and crnet's
/// kernels round them to bf16 as they pack them.
[[nodiscard]] bool rounds_weights_as_packed(torch::ScalarType dtype, int64_t rows);
/// A weight as x [..., C] is multiplied by it, and as the backward pass should keep it: in x's
/// dtype, or itself where it is rounded as it is packed.
[[nodiscard]] torch::Tensor as_factor(const torch::Tensor& weight, const torch::Tensor& x);
/// The same with zeros below and to the right, up to these sizes.
[[nodiscard]] torch::Tensor as_factor(const torch::Tensor& weight, const torch::Tensor& x,
                                      at::IntArrayRef sizes);
/// The gradient of a weight of these sizes from that of such a factor; contiguous.
[[nodiscard]] torch::Tensor without_padding(const torch::Tensor& gradient, at::IntArrayRef sizes);

/// left [M, K] · right [K, N], of any strides and of one dtype; or right is fp32 for a bf16 left
/// one, and rounded to bf16 first. Without a graph. By LibTorch's mm, or by crnet's own kernels
/// (ops/cpu_product.h) where they are faster: on x86 without AVX-512, and on AMD's with it (in bf16
/// with AVX512-BF16), from 64 rows of `left` on; in bf16 on x86 without AVX-512 always, since
/// LibTorch goes through it number by number there. Throws Error or c10::Error where shapes or
/// dtypes do not fit.
[[nodiscard]] torch::Tensor product_of(const torch::Tensor& left, const torch::Tensor& right);
/// The same in `dtype`. bf16 factors' fp32 result is not rounded on a GPU, nor by crnet's own
/// kernels; elsewhere it is first rounded to the factors' dtype.
[[nodiscard]] torch::Tensor product_as(torch::ScalarType dtype, const torch::Tensor& left,
                                       const torch::Tensor& right);
/// out = left · right, in out's dtype as in product_as().
void store_product(torch::Tensor& out, const torch::Tensor& left, const torch::Tensor& right);
/// sum += left · right, rounded once; for an fp32 sum of bf16 factors as in product_as().
void add_product(torch::Tensor& sum, const torch::Tensor& left, const torch::Tensor& right);
/// c · t, with c a scalar of t's dtype or a wider one; not rounded to a narrower one first.
[[nodiscard]] torch::Tensor scaled(const torch::Tensor& t, const torch::Tensor& c);
/// c · base + left · right, with c as above; base [M, N] of left's dtype.
[[nodiscard]] torch::Tensor scaled_plus_product(const torch::Tensor& c, const torch::Tensor& base,
                                                const torch::Tensor& left,
                                                const torch::Tensor& right);

/// The gradient of x, which was computed as a matrix, in x's sizes. No view: autograd adds further
/// gradients in place only where nothing else holds the memory, and a view's base does. Nothing may
/// use `matrix` afterwards.
[[nodiscard]] torch::Tensor as_gradient_of(const torch::Tensor& x, const torch::Tensor& matrix);

}  // namespace crnet
