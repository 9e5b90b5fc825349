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

/// The memory [N, out] in which dY of an output takes shape by kAdd: the carried gradient's own, or
/// a copy.
[[nodiscard]] torch::Tensor to_add_to(const Carried& carried);

}  // namespace crnet
