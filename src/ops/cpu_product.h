// Matrix products by crnet's own CPU kernels.
#pragma once

#include <torch/types.h>

#include "ops/cpu/kernels.h"

namespace crnet::cpu {

/// Whether the kernels can take these factors: on the CPU, fp32 or bf16, of one dtype, or fp32 for
/// a bf16 left one, which is rounded to bf16 as it is packed.
bool takes_product(const torch::Tensor& left, const torch::Tensor& right);

/// out = factor · base + left · right, with `base` undefined for none. left [M, K], right [K, N],
/// base and out [M, N], of any strides; base may be out, which shares no memory with the factors.
/// The factors are those that takes_product() takes; out and base are of left's dtype, or out, and
/// base with a factor of 1, are fp32. Sums are fp32, rounded once, and in an order that depends on
/// K alone, so the number of threads does not change a bit.
void multiply(const torch::Tensor& out, const torch::Tensor& left, const torch::Tensor& right,
              const torch::Tensor& base, float factor);
/// The same by the kernels of one variant.
void multiply(Variant variant, const torch::Tensor& out, const torch::Tensor& left,
              const torch::Tensor& right, const torch::Tensor& base, float factor);

}  // namespace crnet::cpu
