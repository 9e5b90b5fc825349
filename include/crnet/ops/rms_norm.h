// Root-mean-square normalisation, of a tensor and of a residual stream to which something is added.
#pragma once

#include <torch/types.h>

namespace crnet {

/// y = x / sqrt(mean(x², last dimension) + epsilon) · weight (Zhang & Sennrich, arXiv 1910.07467).
/// x [..., C], weight [C]; statistics and products in fp32 (fp64 for fp64), result of x's dtype,
/// gradient of weight in the weight's dtype. Keeps x (of a sum of residual_rms_norm(), passed on as
/// it is, nothing) and one fp32 number per row for the backward.
torch::Tensor rms_norm(const torch::Tensor& x, const torch::Tensor& weight, double epsilon);

/// What residual_rms_norm() gives, [..., C] each.
struct ResidualNorm {
  torch::Tensor sum, normed;
};
/// sum = x + delta and normed = rms_norm(sum, weight, epsilon), in one pass, as the backward pass
/// is over the gradients of both. x and delta [..., C], of one dtype; where delta is undefined, sum
/// is x. For the backward pass it keeps x, delta and one fp32 number per row, and nothing of its
/// results: crnet's operators that read these, as they are, have them made again. So it pays where
/// x and delta are kept anyway. Throws Error where shapes or dtypes do not fit.
ResidualNorm residual_rms_norm(const torch::Tensor& x, const torch::Tensor& delta,
                               const torch::Tensor& weight, double epsilon);

namespace plain {
torch::Tensor rms_norm(const torch::Tensor& x, const torch::Tensor& weight, double epsilon);
}
}  // namespace crnet
