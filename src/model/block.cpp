#include "crnet/model/block.h"

#include <algorithm>

#include "crnet/model/projection.h"
#include "crnet/ops/attention.h"
#include "crnet/ops/swiglu.h"
#include "crnet/recompute/tape.h"

namespace crnet {
namespace {

using torch::Tensor;

Tensor output_below(const BlockState& below, Projection projection) {
  return below.outputs.empty() ? Tensor() : below.outputs[static_cast<size_t>(projection)];
}

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

ResidualNorm RMSNormImpl::after_sum(const Tensor& x, const Tensor& delta) {
  return residual_rms_norm(x, delta, weight, epsilon_);
}

AttentionImpl::AttentionImpl(const ModelConfig& config, int64_t layer, torch::Device device)
    : num_kv_heads_(config.kv_heads()),
      head_size_(config.head_size()),
      is_read_above_(config.architecture == Architecture::kCRNet && layer + 1 < config.num_layers),
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
  const auto rotated = [&](const Tensor& y) {
    return rope(y, rotary.cosine, rotary.sine, offset, is_read_above_);
  };
  const Tensor q = rotated(projected[0]);  // [B, T, H, D]
  Tensor k = rotated(projected[1]);        // [B, T, G, D]
  Tensor v = projected[2].view({B, T, num_kv_heads_, head_size_});
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
      project_up({gate_proj_.get(), up_proj_.get()}, Projection::kGate, x, below, above,
                 {.out = F});
  const Tensor &gate = projected[0], &up = projected[1];
  if (!activation_) {
    return project_up({down_proj_.get()}, Projection::kDown, gate * up, below, above,
                      {.in = F})[0];  // [B, T, C]
  }
  const Tensor y_prev = output_below(below, Projection::kDown);
  return above.outputs[static_cast<size_t>(Projection::kDown)] =
             project_gated(*down_proj_, gate, up, y_prev, {.in = F});  // [B, T, C]
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
  const auto entry = input_layernorm_->after_sum(below.hidden, {});                // [B, T, C] each
  const Tensor attention = self_attn_(entry.normed, below, rotary, cache, above);  // [B, T, C]
  const auto middle = post_attention_layernorm_->after_sum(entry.sum, attention);
  above.hidden = middle.sum + mlp_(middle.normed, below, above);
  if (!keeps_outputs_) above.outputs.clear();
  return above;
}

}  // namespace crnet
