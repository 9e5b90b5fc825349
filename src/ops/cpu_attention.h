// Causal attention of whole sequences by crnet's own CPU kernels. B batch, T length, H query heads,
// G heads of keys and values, D head size.
#pragma once

#include <torch/types.h>

#include "crnet/ops/attention.h"

namespace crnet {

struct AttentionGradients {
  torch::Tensor q, k, v;
};

namespace cpu {

/// True where the kernels can work on these tensors: on the CPU, fp32 or bf16, all of one dtype.
bool takes_attention(const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v);

/// q [B, T, H, D], k and v [B, T, G, D], of any strides.
AttentionProducts attention(const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v);

/// `gradient` [B, T, H·D] is that of the result. Bit by bit the same for any number of threads.
AttentionGradients attention_backward(const torch::Tensor& gradient, const torch::Tensor& q,
                                      const torch::Tensor& k, const torch::Tensor& v,
                                      const AttentionProducts& products);

}  // namespace cpu
}  // namespace crnet
