// The gated activation of the MLP.
#pragma once

#include <torch/types.h>

#include "crnet/ops/matrix_product.h"

namespace crnet {

/// silu(gate) ⊙ up with silu(x) = x · sigmoid(x) (Shazeer, arXiv 2002.05202). Both [..., F] of one
/// dtype; computed in fp32. Keeps gate and up, and no intermediate, for the backward.
torch::Tensor swiglu(const torch::Tensor& gate, const torch::Tensor& up);

/// matrix_product(swiglu(gate, up), weight, …), which goes over gate and up once in the backward
/// pass, and in the forward pass not at all where the product is held.
torch::Tensor swiglu_product(const torch::Tensor& gate, const torch::Tensor& up,
                             const torch::Tensor& weight, WeightLayout layout,
                             torch::Tensor* product = nullptr, const RowWidths& widths = {});

namespace plain {
torch::Tensor swiglu(const torch::Tensor& gate, const torch::Tensor& up);
}
}  // namespace crnet
