// The sum on the residual stream.
#pragma once

#include <torch/types.h>

namespace crnet {

/// x + y, of one shape and dtype. For the backward pass it keeps x and y in place of the sum: the
/// operators of crnet that read it, as it is, have it added up again. So it pays where x and y are
/// kept anyway. Throws Error where shapes or dtypes differ.
torch::Tensor residual_sum(const torch::Tensor& x, const torch::Tensor& y);

}  // namespace crnet
