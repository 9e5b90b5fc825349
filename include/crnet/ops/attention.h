// Causal scaled dot-product attention.
#pragma once

#include <torch/types.h>

namespace crnet {

/// What attention's backward pass needs besides q, k and v.
struct AttentionProducts {
  torch::Tensor out;          ///< [B, T, H·D], the result
  torch::Tensor log_sum_exp;  ///< [B, H, T], fp32 at least: of each query's scores
  /// On a GPU: whose kernels made them (else flash attention's), and their state of a random
  /// generator, which nothing reads without dropout.
  torch::Tensor seed = {}, offset = {};
  bool by_cudnn = false;
};

/// softmax(q kᵀ / √D) v, each query seeing the keys up to its own position; the last query stands
/// at the last key. q [B, T, H, D]; k and v [B, S, G, D] with S ≥ T and H a multiple of G
/// (grouped-query attention: query head h reads key head h / (H/G)). Result [B, T, H·D]. Flash
/// attention: whole sequences in fp32 or bf16 on a CPU by crnet's own kernels, with sums in fp32,
/// of the same bits for any number of threads; all else by LibTorch's. What rope offers to
/// make again of q and k is not kept for the backward pass.
///
/// Where `products` is given and defined, it is believed and attention is not run; where it is
/// undefined, what was computed is left there, without a graph. It is not looked at where S > T,
/// and on a GPU but in bf16, where LibTorch chooses cuDNN's or flash attention for heads of up to
/// 128.
torch::Tensor causal_attention(const torch::Tensor& q, const torch::Tensor& k,
                               const torch::Tensor& v, AttentionProducts* products = nullptr);

namespace plain {
/// The same with the whole [B, H, T, S] matrix of weights.
torch::Tensor causal_attention(const torch::Tensor& q, const torch::Tensor& k,
                               const torch::Tensor& v);
}  // namespace plain
}  // namespace crnet
