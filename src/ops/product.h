// Matrix products, as fast as the processor has them.
#pragma once

#include <torch/types.h>

namespace crnet {

/// left [M, K] · right [K, N], of one dtype, any strides. As LibTorch's mm, but for bf16 on x86
/// without AVX-512: there LibTorch goes through it number by number, and here tiles of both are
/// widened to fp32, multiplied, summed in fp32, and rounded once.
[[nodiscard]] torch::Tensor product_of(const torch::Tensor& left, const torch::Tensor& right);
/// out = left · right.
void store_product(torch::Tensor& out, const torch::Tensor& left, const torch::Tensor& right);
/// sum += left · right, rounded once.
void add_product(torch::Tensor& sum, const torch::Tensor& left, const torch::Tensor& right);

namespace detail {

enum class Into { kOverwrite, kAdd };

/// The products above as where bf16 is widened. Throws Error where shapes or dtypes do not fit.
void multiply_widened(torch::Tensor& out, const torch::Tensor& left, const torch::Tensor& right,
                      Into into);

}  // namespace detail
}  // namespace crnet
