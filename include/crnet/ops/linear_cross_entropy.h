// The output head and its loss, without ever holding all logits.
#pragma once

#include <torch/types.h>

namespace crnet {

/// Targets of this value do not count.
inline constexpr int64_t kIgnoredTarget = -100;

/// Mean cross entropy of softmax(hidden weightᵀ) against `targets`, natural logarithm.
///
/// hidden [N, C]; weight [V, C] (any floating dtype; cast to hidden's for the products); targets
/// int64 [N] in [0, V) or kIgnoredTarget. Result: fp32 scalar (fp64 for fp64); 0 where every target
/// is ignored. Logits exist for `chunk_rows` tokens at a time, in hidden's dtype; 0 picks
/// default_chunk_rows. The gradients are computed chunk by chunk in the forward pass (as [N, C]
/// and [V, C]) where anything requires them, so the backward pass only scales them. Any other
/// target is an error on a CPU; on a GPU, where a check would have to wait, it makes the loss NaN.
torch::Tensor linear_cross_entropy(const torch::Tensor& hidden, const torch::Tensor& weight,
                                   const torch::Tensor& targets, int64_t chunk_rows = 0);

/// The chunk that linear_cross_entropy picks: at most 64 MiB of logits in `dtype` on a CPU, 256 MiB
/// on a GPU, and never all rows where there are more than a few.
int64_t default_chunk_rows(int64_t rows, int64_t vocab, bool on_cpu, torch::ScalarType dtype);

namespace plain {
torch::Tensor linear_cross_entropy(const torch::Tensor& hidden, const torch::Tensor& weight,
                                   const torch::Tensor& targets);
}
}  // namespace crnet
