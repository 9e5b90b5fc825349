#include "crnet/model/block.h"

#include "crnet/model/projection.h"
#include "crnet/ops/attention.h"
#include "crnet/ops/residual_sum.h"
#include "crnet/ops/rms_norm.h"
#include "crnet/ops/swiglu.h"
#include "crnet/recompute/tape.h"

namespace crnet {
namespace {

using torch::Tensor;

// Runs a projection on x and the same projection's output below; its own output goes up.
Tensor project(torch::nn::AnyModule& module, Projection projection, const Tensor& x,
               const BlockState& below, BlockState& above) {
  const auto index = static_cast<size_t>(projection);
  const Tensor y_prev = below.outputs.empty() ? Tensor() : below.outputs[index];
  above.outputs[index] = module.forward<Tensor>(x, y_prev);
  return above.outputs[index];
}

Tensor append(const Tensor& cached, const Tensor& fresh) {
  return cached.defined() ? torch::cat({cached, fresh}, 1) : fresh;
}

}  // namespace

RMSNormImpl::RMSNormImpl(int64_t size, double epsilon, torch::Device device) : epsilon_(epsilon) {
  weight = register_parameter(
      "weight", torch::ones({size}, torch::TensorOptions().dtype(torch::kFloat32).device(device)));
}

Tensor RMSNormImpl::forward(const Tensor& x) {
  return rms_norm(x, weight, epsilon_);
}

AttentionImpl::AttentionImpl(const ModelConfig& config, int64_t layer, torch::Device device)
    : num_heads_(config.num_heads),
      num_kv_heads_(config.kv_heads()),
      head_size_(config.head_size()),
      q_proj_(make_projection(config, layer, Projection::kQ, device)),
      k_proj_(make_projection(config, layer, Projection::kK, device)),
      v_proj_(make_projection(config, layer, Projection::kV, device)),
      o_proj_(make_projection(config, layer, Projection::kO, device)) {
  register_module("q_proj", q_proj_.ptr());
  register_module("k_proj", k_proj_.ptr());
  register_module("v_proj", v_proj_.ptr());
  register_module("o_proj", o_proj_.ptr());
}

Tensor AttentionImpl::forward(const Tensor& x, const BlockState& below, const RopeTable& rotary,
                              KeyValueCache* cache, BlockState& above) {
  const int64_t B = x.size(0), T = x.size(1);
  Tensor q = project(q_proj_, Projection::kQ, x, below, above);  // [B, T, H·D]
  Tensor k = project(k_proj_, Projection::kK, x, below, above);  // [B, T, G·D]
  Tensor v = project(v_proj_, Projection::kV, x, below, above);  // [B, T, G·D]
  const int64_t offset = cache != nullptr && cache->keys.defined() ? cache->keys.size(1) : 0;
  q = rope(q.view({B, T, num_heads_, head_size_}), rotary.cosine, rotary.sine, offset);
  k = rope(k.view({B, T, num_kv_heads_, head_size_}), rotary.cosine, rotary.sine, offset);
  v = v.view({B, T, num_kv_heads_, head_size_});
  if (cache != nullptr) {
    k = cache->keys = append(cache->keys, k);
    v = cache->values = append(cache->values, v);
  }
  const Tensor attended = causal_attention(q, k, v, Tape::next_attention());  // [B, T, C]
  return project(o_proj_, Projection::kO, attended, below, above);
}

MLPImpl::MLPImpl(const ModelConfig& config, int64_t layer, torch::Device device)
    : activation_(config.architecture != Architecture::kCoLA || config.cola_mlp_activation),
      gate_proj_(make_projection(config, layer, Projection::kGate, device)),
      up_proj_(make_projection(config, layer, Projection::kUp, device)),
      down_proj_(make_projection(config, layer, Projection::kDown, device)) {
  register_module("gate_proj", gate_proj_.ptr());
  register_module("up_proj", up_proj_.ptr());
  register_module("down_proj", down_proj_.ptr());
}

Tensor MLPImpl::forward(const Tensor& x, const BlockState& below, BlockState& above) {
  const Tensor gate = project(gate_proj_, Projection::kGate, x, below, above);  // [B, T, F]
  const Tensor up = project(up_proj_, Projection::kUp, x, below, above);        // [B, T, F]
  const Tensor inner = activation_ ? swiglu(gate, up) : gate * up;
  return project(down_proj_, Projection::kDown, inner, below, above);  // [B, T, C]
}

BlockImpl::BlockImpl(const ModelConfig& config, int64_t layer, torch::Device device)
    : keeps_outputs_(config.architecture == Architecture::kCRNet),
      input_layernorm_(config.hidden_size, config.norm_epsilon, device),
      post_attention_layernorm_(config.hidden_size, config.norm_epsilon, device),
      self_attn_(config, layer, device),
      mlp_(config, layer, device) {
  register_module("self_attn", self_attn_);
  register_module("mlp", mlp_);
  register_module("input_layernorm", input_layernorm_);
  register_module("post_attention_layernorm", post_attention_layernorm_);
}

BlockState BlockImpl::forward(const BlockState& below, const RopeTable& rotary,
                              KeyValueCache* cache) {
  BlockState above{{}, std::vector<Tensor>(kNumProjections)};
  const Tensor attention =
      self_attn_(input_layernorm_(below.hidden), below, rotary, cache, above);  // [B, T, C]
  const Tensor middle = residual_sum(below.hidden, attention);                  // [B, T, C]
  above.hidden = middle + mlp_(post_attention_layernorm_(middle), below, above);
  if (!keeps_outputs_) above.outputs.clear();
  return above;
}

}  // namespace crnet
