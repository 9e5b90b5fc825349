// The language model: embedding → blocks → cross-layer state → logits.
//
// Shapes: B batch, T sequence, C hidden, V vocabulary.
#pragma once

#include <torch/nn/module.h>
#include <torch/nn/modules/container/modulelist.h>
#include <torch/nn/pimpl.h>

#include <string>
#include <utility>
#include <vector>

#include "crnet/model/block.h"
#include "crnet/model/config.h"

namespace crnet {

/// One entry per block.
using KeyValueCaches = std::vector<KeyValueCache>;

/// Embedding, blocks and final norm; names embed_tokens.weight, layers.{i}.…, norm.weight.
class DecoderImpl : public torch::nn::Module {
 public:
  DecoderImpl(const ModelConfig& config, torch::Device device);

  /// tokens int64 [B, T] → normed hidden states [B, T, C] of `dtype`. `caches`, where given, has
  /// one entry per block and holds the tokens before these.
  torch::Tensor forward(const torch::Tensor& tokens, torch::ScalarType dtype,
                        KeyValueCaches* caches = nullptr);

  ParameterUsePtr use;         ///< by unit; see CausalLMImpl::parameter_units()
  torch::Tensor embed_tokens;  ///< [V, C]
  BlockStack stack;            ///< how the blocks' activations are kept

 private:
  RopeTable rotary_;
  std::vector<Block> layers_;
  RMSNorm norm_{nullptr};
};
TORCH_MODULE(Decoder);

/// A LLaMA-style causal language model in one of three architectures. Parameters are fp32 (master
/// weights; those of two dimensions may be given the compute dtype later) and named as Hugging Face
/// names LLaMA's: model.layers.0.self_attn.q_proj.weight, or ….A, ….B and ….beta. Activations are
/// of the compute dtype.
///
/// The parameters are not set by construction: call initialize() (model/init.h) or load them.
class CausalLMImpl : public torch::nn::Module {
 public:
  /// Throws UsageError where `config` does not validate. Device kMeta: shapes without memory.
  explicit CausalLMImpl(ModelConfig config, torch::Device device = torch::kCPU);

  /// tokens int64 [B, T] → logits [B, T, V] of the compute dtype.
  torch::Tensor forward(const torch::Tensor& tokens, KeyValueCaches* caches = nullptr);

  /// Mean cross entropy in nats, fp32 scalar. tokens and targets int64 [B, T]; targets of
  /// kIgnoredTarget do not count. All logits are never in memory at once.
  torch::Tensor loss(const torch::Tensor& tokens, const torch::Tensor& targets);

  /// The parameters that are used together, with their names: first the embedding, then each block,
  /// last the final norm and the head (where it is not the embedding).
  [[nodiscard]] std::vector<std::vector<std::pair<std::string, torch::Tensor>>> parameter_units()
      const;
  /// `use` is called around every use of a unit from now on: matrices may have their values then
  /// alone. Null for none.
  void set_parameter_use(ParameterUsePtr use) { model_->use = std::move(use); }

  /// Activations and products in this dtype from now on: kFloat32 (the default), kBFloat16, or
  /// kFloat64 after `to(kFloat64)`.
  void set_compute_dtype(torch::ScalarType dtype) { compute_dtype_ = dtype; }
  [[nodiscard]] torch::ScalarType compute_dtype() const { return compute_dtype_; }
  [[nodiscard]] const ModelConfig& config() const { return config_; }

  /// Activations are kept or rebuilt as `config` says, from the next forward pass on. Throws
  /// UsageError ("recompute.strategy: expected …") where it does not fit the model. Strategy auto
  /// keeps everything: the plan that it chooses comes from choose_plan (train/planner.h).
  void set_recompute(const RecomputeConfig& config);
  /// Throws Error where the plan is of another number of blocks.
  void set_recompute(RecomputePlan plan);
  [[nodiscard]] BlockStack& stack() { return model_->stack; }
  [[nodiscard]] const BlockStack& stack() const { return model_->stack; }

  /// The head's matrix [V, C]: its own, or the embedding where they are tied.
  [[nodiscard]] const torch::Tensor& head_weight() const;

 private:
  [[nodiscard]] size_t head_unit() const;

  ModelConfig config_;
  torch::ScalarType compute_dtype_ = torch::kFloat32;
  Decoder model_{nullptr};
  torch::Tensor lm_head_weight_;  // [V, C]; undefined where tied
};
TORCH_MODULE(CausalLM);

/// The plan of `config` for a model. Throws UsageError as CausalLMImpl::set_recompute.
[[nodiscard]] RecomputePlan make_plan(const RecomputeConfig& config, const ModelConfig& model);

/// As initialize(Module&, …) with the model's own config.
void initialize(CausalLMImpl& model, uint64_t seed);

}  // namespace crnet
