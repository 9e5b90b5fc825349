// Causal attention of whole sequences by LibTorch's fused attentions, called for one pass at a time
// so that what the backward pass needs can be held, or made again. Shapes as in cpu_attention.h.
#pragma once

#include <ATen/SDPBackend.h>

#include <optional>

#include "ops/cpu_attention.h"

namespace crnet {

/// Whether causal_attention() of whole sequences can leave and take AttentionProducts, and asks
/// rope for q and k again rather than keep them: on a CPU, and on a GPU in bf16 with heads of a
/// multiple of 8 up to 128, which LibTorch's fused attentions take from compute capability 8.0 on.
bool can_hold_attention(bool on_cpu, torch::ScalarType dtype, int64_t head_size);

/// Which of LibTorch's: flash attention on a CPU; on a GPU cuDNN's or flash attention, as LibTorch
/// chooses itself, or none where it chooses another.
std::optional<at::SDPBackend> library_choice(const torch::Tensor& q);

AttentionProducts library_attention(const torch::Tensor& q, const torch::Tensor& k,
                                    const torch::Tensor& v, at::SDPBackend choice);
AttentionGradients library_attention_backward(const torch::Tensor& gradient, const torch::Tensor& q,
                                              const torch::Tensor& k, const torch::Tensor& v,
                                              const AttentionProducts& products);

/// k or v for every query head: [B, T, G, D] → [B, T, G·groups, D].
torch::Tensor widen_heads(const torch::Tensor& t, int64_t groups);
/// [B, H, T, D] → [B, T, H·D]
torch::Tensor merge_heads(const torch::Tensor& t);

}  // namespace crnet
