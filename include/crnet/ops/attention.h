// Causal scaled dot-product attention.
#pragma once

#include <torch/types.h>

namespace crnet {

/// softmax(q kᵀ / √D) v, each query seeing the keys up to its own position; the last query stands
/// at the last key. q [B, T, H, D]; k and v [B, S, G, D] with S ≥ T and H a multiple of G
/// (grouped-query attention: query head h reads key head h / (H/G)). Result [B, T, H·D]. LibTorch's
/// fused kernels (flash attention) do the work.
torch::Tensor causal_attention(const torch::Tensor& q, const torch::Tensor& k,
                               const torch::Tensor& v);

namespace plain {
/// The same with the whole [B, H, T, S] matrix of weights.
torch::Tensor causal_attention(const torch::Tensor& q, const torch::Tensor& k,
                               const torch::Tensor& v);
}  // namespace plain
}  // namespace crnet
