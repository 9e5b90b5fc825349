// Root-mean-square normalisation.
#pragma once

#include <torch/types.h>

namespace crnet {

/// y = x / sqrt(mean(x², last dimension) + epsilon) · weight (Zhang & Sennrich, arXiv 1910.07467).
/// x [..., C], weight [C]; statistics and products in fp32 (fp64 for fp64), result of x's dtype,
/// gradient of weight in the weight's dtype. Keeps x (of the result of
/// residual_sum, passed on as it is, nothing) and one fp32 number per row for the backward.
torch::Tensor rms_norm(const torch::Tensor& x, const torch::Tensor& weight, double epsilon);

namespace plain {
torch::Tensor rms_norm(const torch::Tensor& x, const torch::Tensor& weight, double epsilon);
}
}  // namespace crnet
