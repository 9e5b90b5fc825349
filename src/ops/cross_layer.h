// What the backward pass does with dY, the gradient of a projection's output, between the products.
#pragma once

#include <torch/types.h>

#include "ops/carried_gradient.h"
#include "ops/cross_layer_pass.h"

namespace crnet {

/// Goes over dy once; all contiguous, of one dtype and as many numbers, c [] of that or a wider
/// one. Returns Σ dY ⊙ y_prev in at least fp32, of c's dtype; undefined where y_prev is, as it may
/// be in kAdd. `out` may be undefined in kDot.
torch::Tensor pass_over_gradient(CrossLayerPass pass, const torch::Tensor& dy,
                                 const torch::Tensor& y_prev, const torch::Tensor& c,
                                 const torch::Tensor& out);

struct SummedGradient {
  torch::Tensor dy;   // [N, out]
  torch::Tensor dot;  // Σ dY ⊙ y_prev; undefined where y_prev is
};
/// An output's own gradient [N, out], contiguous, and what was carried to it, in the carried
/// gradient's memory where that is owned.
[[nodiscard]] SummedGradient add_carried(const torch::Tensor& own, const Carried& carried,
                                         const torch::Tensor& y_prev);

}  // namespace crnet
