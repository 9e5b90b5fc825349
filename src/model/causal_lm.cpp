#include "crnet/model/causal_lm.h"

#include <algorithm>

#include "crnet/core/error.h"
#include "crnet/core/format.h"
#include "crnet/model/init.h"
#include "crnet/ops/linear_cross_entropy.h"
#include "crnet/ops/matrix_product.h"
#include "recompute/parameter_use.h"

namespace crnet {
namespace {

using torch::Tensor;

Tensor empty_weight(int64_t rows, int64_t columns, torch::Device device) {
  return torch::empty({rows, columns},
                      torch::TensorOptions().dtype(torch::kFloat32).device(device));
}

// Block 0 is unit 1.
ParameterUsePtr use_of_blocks(const ParameterUsePtr& units) {
  if (!units) return nullptr;
  auto blocks = c10::make_intrusive<ParameterUse>();
  blocks->before = [units](size_t block, bool forward) { units->before(block + 1, forward); };
  blocks->after = [units](size_t block) { units->after(block + 1); };
  return blocks;
}

}  // namespace

DecoderImpl::DecoderImpl(const ModelConfig& config, torch::Device device) {
  auto embedding = std::make_shared<torch::nn::Module>();
  embed_tokens = embedding->register_parameter(
      "weight", empty_weight(config.vocab_size, config.hidden_size, device));
  register_module("embed_tokens", embedding);
  auto list = register_module("layers", torch::nn::ModuleList());
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    layers_.emplace_back(config, layer, device);
    list->push_back(layers_.back());
  }
  norm_ = register_module("norm", RMSNorm(config.hidden_size, config.norm_epsilon, device));
  rotary_ = rope_table(config.max_sequence_length, config.head_size(), config.rope_theta);
}

Tensor DecoderImpl::forward(const Tensor& tokens, torch::ScalarType dtype, KeyValueCaches* caches) {
  if (rotary_.cosine.device() != tokens.device()) {
    rotary_ = {rotary_.cosine.to(tokens.device()), rotary_.sine.to(tokens.device())};
  }
  Tensor embedded;  // [B, T, C]
  {
    const InUse in_use(use, 0, /*forward=*/true);
    embedded = torch::embedding(embed_tokens, tokens).to(dtype);
  }
  std::vector<StackBlock> blocks;
  for (size_t layer = 0; layer < layers_.size(); ++layer) {
    KeyValueCache* const cache = caches != nullptr ? &caches->at(layer) : nullptr;
    blocks.push_back({[block = layers_[layer], rotary = rotary_, cache](
                          const BlockState& below) mutable { return block(below, rotary, cache); },
                      layers_[layer]->parameters()});
  }
  return norm_(stack.forward(blocks, embedded, use_of_blocks(use)));
}

CausalLMImpl::CausalLMImpl(ModelConfig config, torch::Device device) : config_(std::move(config)) {
  config_.validate();
  model_ = register_module("model", Decoder(config_, device));
  if (config_.tie_embeddings) return;
  auto head = register_module("lm_head", std::make_shared<torch::nn::Module>());
  lm_head_weight_ = head->register_parameter(
      "weight", empty_weight(config_.vocab_size, config_.hidden_size, device));
}

void CausalLMImpl::set_recompute(const RecomputeConfig& config) {
  set_recompute(make_plan(config, config_));
}

void CausalLMImpl::set_recompute(RecomputePlan plan) {
  if (static_cast<int64_t>(plan.blocks.size()) != config_.num_layers) {
    throw Error(format("[recompute] expected a plan for %ld blocks, got one for %zu",
                       static_cast<long>(config_.num_layers), plan.blocks.size()));
  }
  model_->stack = BlockStack(std::move(plan));
}

const Tensor& CausalLMImpl::head_weight() const {
  return config_.tie_embeddings ? model_->embed_tokens : lm_head_weight_;
}

size_t CausalLMImpl::head_unit() const {
  return config_.tie_embeddings ? 0 : static_cast<size_t>(config_.num_layers) + 1;
}

std::vector<std::vector<std::pair<std::string, Tensor>>> CausalLMImpl::parameter_units() const {
  std::vector<std::vector<std::pair<std::string, Tensor>>> units(
      static_cast<size_t>(config_.num_layers) + 2);
  const std::string block_prefix = "model.layers.";
  for (const auto& item : named_parameters()) {
    size_t unit = item.key().starts_with("model.embed_tokens.") ? 0 : units.size() - 1;
    if (item.key().starts_with(block_prefix)) {
      unit = 1 + std::stoul(item.key().substr(block_prefix.size()));
    }
    units[unit].emplace_back(item.key(), item.value());
  }
  return units;
}

Tensor CausalLMImpl::forward(const Tensor& tokens, KeyValueCaches* caches) {
  const Tensor hidden = model_(tokens, compute_dtype_, caches);  // [B, T, C]
  const InUse in_use(model_->use, head_unit(), /*forward=*/true);
  return matrix_product(hidden, head_weight(), WeightLayout::kOutIn);  // [B, T, V]
}

Tensor CausalLMImpl::loss(const Tensor& tokens, const Tensor& targets) {
  const Tensor hidden = model_(tokens, compute_dtype_, nullptr);  // [B, T, C]
  const InUse in_use(model_->use, head_unit(), /*forward=*/true);
  return linear_cross_entropy(hidden.flatten(0, 1), head_weight(), targets.reshape({-1}));
}

RecomputePlan make_plan(const RecomputeConfig& config, const ModelConfig& model) {
  using enum RecomputeStrategy;
  const auto fits = [&](std::initializer_list<RecomputeStrategy> allowed) {
    return std::find(allowed.begin(), allowed.end(), config.strategy) != allowed.end();
  };
  const char* allowed = "none, full or auto";
  bool is_allowed = fits({kNone, kFull, kAuto});
  if (model.architecture == Architecture::kCRNet) {
    allowed = "none, full, inverse, replay or auto";
    is_allowed = fits({kNone, kFull, kInverse, kReplay, kAuto});
  } else if (model.architecture == Architecture::kCoLA) {
    allowed = "none, full, cola_m or auto";
    is_allowed = fits({kNone, kFull, kColaM, kAuto});
  }
  if (!is_allowed) {
    throw UsageError(
        format("recompute.strategy: expected %s for a model of architecture %s, got %s", allowed,
               enum_name(model.architecture), enum_name(config.strategy)));
  }
  return make_plan(config, model.num_layers);
}

void initialize(CausalLMImpl& model, uint64_t seed) {
  initialize(model, model.config(), seed);
}

}  // namespace crnet
