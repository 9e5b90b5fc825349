// Rotary position embedding, in Hugging Face's rotate-half convention.
#pragma once

#include <torch/types.h>

namespace crnet {

/// The angles of positions 0 … length−1 for heads of size D: cos and sin of p · theta^(−2i/D).
struct RopeTable {
  torch::Tensor cosine;  ///< fp32 [length, D/2]
  torch::Tensor sine;    ///< fp32 [length, D/2]
};
RopeTable rope_table(int64_t length, int64_t head_size, double theta);

/// Rotates the pairs (i, i + D/2) of every head by its token's position (Su et al., arXiv
/// 2104.09864). x [B, T, H, D] or [B, T, H·D] → [B, T, H, D]; cosine and sine [≥ offset+T, D/2];
/// the first token stands at position `offset`. Result of x's dtype, computed in fp32.
/// Differentiable in x. `x_is_kept`: x stays until the backward pass in any case, as Y_prev of a
/// CR-Net block above; on a CPU, and in bf16 on a GPU, attention then keeps x in place of the
/// result and has it rotated again.
torch::Tensor rope(const torch::Tensor& x, const torch::Tensor& cosine, const torch::Tensor& sine,
                   int64_t offset = 0, bool x_is_kept = false);

namespace plain {
torch::Tensor rope(const torch::Tensor& x, const torch::Tensor& cosine, const torch::Tensor& sine,
                   int64_t offset = 0);
}
}  // namespace crnet
