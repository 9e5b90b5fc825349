// One transformer block, the same for all three architectures.
//
// Shapes: B batch, T sequence, C hidden, H heads, G key/value heads, D head size, F MLP width.
#pragma once

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include "crnet/model/config.h"
#include "crnet/model/projection_layer.h"
#include "crnet/ops/rms_norm.h"
#include "crnet/ops/rope.h"
#include "crnet/recompute/block_stack.h"

namespace crnet {

/// Rotated keys and values of the tokens seen so far, for one block.
struct KeyValueCache {
  torch::Tensor keys;    ///< [B, S, G, D]; undefined at the start
  torch::Tensor values;  ///< [B, S, G, D]
};

/// RMSNorm with a learnable weight [C].
class RMSNormImpl : public torch::nn::Module {
 public:
  RMSNormImpl(int64_t size, double epsilon, torch::Device device);
  torch::Tensor forward(const torch::Tensor& x);
  /// Of x + delta, or of x where delta is undefined; gives the sum as well.
  ResidualNorm after_sum(const torch::Tensor& x, const torch::Tensor& delta);

  torch::Tensor weight;

 private:
  double epsilon_;
};
TORCH_MODULE(RMSNorm);

/// Causal multi-head attention with RoPE; names q_proj, k_proj, v_proj, o_proj.
class AttentionImpl : public torch::nn::Module {
 public:
  AttentionImpl(const ModelConfig& config, int64_t layer, torch::Device device);

  /// x [B, T, C], the normed residual stream → [B, T, C]. Reads the four outputs of the block below
  /// from `below` and writes its own to `outputs`. With a cache, x holds the tokens that follow the
  /// cached ones, and the cache grows by them.
  torch::Tensor forward(const torch::Tensor& x, const BlockState& below, const RopeTable& rotary,
                        KeyValueCache* cache, BlockState& above);

 private:
  int64_t num_kv_heads_, head_size_;
  bool is_read_above_;  // its outputs, by a block of CR-Net
  ProjectionLayerPtr q_proj_, k_proj_, v_proj_, o_proj_;
};
TORCH_MODULE(Attention);

/// down(silu(gate(x)) ⊙ up(x)); names gate_proj, up_proj, down_proj. CoLA may drop the silu.
class MLPImpl : public torch::nn::Module {
 public:
  MLPImpl(const ModelConfig& config, int64_t layer, torch::Device device);
  torch::Tensor forward(const torch::Tensor& x, const BlockState& below, BlockState& above);

 private:
  int64_t width_;
  bool activation_;
  ProjectionLayerPtr gate_proj_, up_proj_, down_proj_;
};
TORCH_MODULE(MLP);

/// RMSNorm, attention, residual add, RMSNorm, MLP, residual add.
class BlockImpl : public torch::nn::Module {
 public:
  /// `layer` counts from 0.
  BlockImpl(const ModelConfig& config, int64_t layer, torch::Device device = torch::kCPU);
  BlockState forward(const BlockState& below, const RopeTable& rotary,
                     KeyValueCache* cache = nullptr);

 private:
  bool keeps_outputs_;
  RMSNorm input_layernorm_{nullptr}, post_attention_layernorm_{nullptr};
  Attention self_attn_{nullptr};
  MLP mlp_{nullptr};
};
TORCH_MODULE(Block);

}  // namespace crnet
