// The gated activation of the MLP.
#pragma once

#include <torch/types.h>

namespace crnet {

/// silu(gate) ⊙ up with silu(x) = x · sigmoid(x) (Shazeer, arXiv 2002.05202). Both [..., F] of one
/// dtype; computed in fp32. Keeps gate and up, and no intermediate, for the backward.
torch::Tensor swiglu(const torch::Tensor& gate, const torch::Tensor& up);

namespace plain {
torch::Tensor swiglu(const torch::Tensor& gate, const torch::Tensor& up);
}
}  // namespace crnet
