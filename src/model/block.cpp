#include "crnet/model/block.h"

#include <algorithm>

#include "crnet/model/projection.h"
#include "crnet/ops/attention.h"
#include "crnet/ops/residual_sum.h"
#include "crnet/ops/rms_norm.h"
#include "crnet/ops/swiglu.h"
#include "crnet/recompute/tape.h"

namespace crnet {
namespace {

using torch::Tensor;

// Runs projections of x on it and on their outputs below; what they give goes up. Their places
// follow each other from `first` on.
std::vector<Tensor> project_up(const std::vector<const ProjectionLayer*>& layers, Projection first,
                               const Tensor& x, const BlockState& below, BlockState& above,
                               const RowWidths& widths = {}) {
  const auto from = static_cast<std::ptrdiff_t>(first);
  std::vector<Tensor> y_prev;
  if (!below.outputs.empty()) {
    const auto begin = below.outputs.begin() + from;
    y_prev.assign(begin, begin + static_cast<std::ptrdiff_t>(layers.size()));
  }
  auto outputs = project(layers, x, y_prev, widths);
  std::copy(outputs.begin(), outputs.end(), above.outputs.begin() + from);
  return outputs;
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
      q_proj_(add_projection(*this, "q_proj", config, layer, Projection::kQ, device)),
      k_proj_(add_projection(*this, "k_proj", config, layer, Projection::kK, device)),
      v_proj_(add_projection(*this, "v_proj", config, layer, Projection::kV, device)),
      o_proj_(add_projection(*this, "o_proj", config, layer, Projection::kO, device)) {}

Tensor AttentionImpl::forward(const Tensor& x, const BlockState& below, const RopeTable& rotary,
                              KeyValueCache* cache, BlockState& above) {
  const int64_t B = x.size(0), T = x.size(1);
  const auto projected =  // [B, T, H·D], [B, T, G·D], [B, T, G·D]
      project_up({q_proj_.get(), k_proj_.get(), v_proj_.get()}, Projection::kQ, x, below, above);
  const int64_t offset = cache != nullptr && cache->keys.defined() ? cache->keys.size(1) : 0;
  const auto heads = [&](size_t i, int64_t count) {
    return projected[i].view({B, T, count, head_size_});
  };
  const Tensor q = rope(heads(0, num_heads_), rotary.cosine, rotary.sine, offset);
  Tensor k = rope(heads(1, num_kv_heads_), rotary.cosine, rotary.sine, offset);
  Tensor v = heads(2, num_kv_heads_);
  if (cache != nullptr) {
    k = cache->keys = append(cache->keys, k);
    v = cache->values = append(cache->values, v);
  }
  const Tensor attended = causal_attention(q, k, v, Tape::next_attention());  // [B, T, C]
  return project_up({o_proj_.get()}, Projection::kO, attended, below, above)[0];
}

MLPImpl::MLPImpl(const ModelConfig& config, int64_t layer, torch::Device device)
    : width_(config.ffn_size),
      activation_(config.architecture != Architecture::kCoLA || config.cola_mlp_activation),
      gate_proj_(add_projection(*this, "gate_proj", config, layer, Projection::kGate, device)),
      up_proj_(add_projection(*this, "up_proj", config, layer, Projection::kUp, device)),
      down_proj_(add_projection(*this, "down_proj", config, layer, Projection::kDown, device)) {}

Tensor MLPImpl::forward(const Tensor& x, const BlockState& below, BlockState& above) {
  // Zeros behind a row's F numbers stay zeros in all of it, and so do their gradients.
  const int64_t F = fast_row_width(width_, x.is_cuda(), x.scalar_type());
  const auto projected =  // [B, T, F] each
      project_up({gate_proj_.get(), up_proj_.get()}, Projection::kGate, x, below, above, {.out = F});
  const Tensor &gate = projected[0], &up = projected[1];
  const Tensor inner = activation_ ? swiglu(gate, up) : gate * up;
  return project_up({down_proj_.get()}, Projection::kDown, inner, below, above,
                    {.in = F})[0];  // [B, T, C]
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
