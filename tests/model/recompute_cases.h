// What the tests of recomputation share: a small model, a strategy, and a pass through both.
#pragma once

#include <torch/torch.h>

#include <vector>

#include "crnet/model/causal_lm.h"
#include "crnet/model/init.h"

namespace crnet::testing {

constexpr int64_t kVocab = 19;

inline ModelConfig shape(Architecture architecture, int64_t num_layers) {
  ModelConfig config;
  config.architecture = architecture;
  config.vocab_size = kVocab;
  config.hidden_size = 24;
  config.num_layers = num_layers;
  config.num_heads = 4;
  config.ffn_size = 41;
  config.max_sequence_length = 64;
  config.r = int64_t{5};
  config.beta_init = 0.9;
  config.init_std = 0.2;
  config.low_rank_init = LowRankInit::kProduct;
  return config;
}

struct Pass {
  torch::Tensor loss;
  std::vector<torch::Tensor> gradients;
};

// Loss and gradients of two batches, accumulated. `recompute`: RecomputeConfig or RecomputePlan.
template <class Recompute = RecomputeConfig>
inline Pass run(const ModelConfig& config, const Recompute& recompute, torch::ScalarType dtype,
                int64_t length = 13, torch::Device device = torch::kCPU) {
  CausalLM model(config, device);
  initialize(*model, 3);
  model->set_compute_dtype(dtype);
  model->set_recompute(recompute);
  torch::manual_seed(5);
  Pass pass;
  for (int batch = 0; batch < 2; ++batch) {
    const torch::Tensor tokens = torch::randint(kVocab, {3, length}).to(device);
    pass.loss = model->loss(tokens, tokens.roll(-1, 1));
    pass.loss.backward();
  }
  for (const auto& parameter : model->parameters()) pass.gradients.push_back(parameter.grad());
  return pass;
}

inline RecomputeConfig strategy(RecomputeStrategy strategy,
                                IntegerOrListOrMap anchors = std::vector<int64_t>{}) {
  RecomputeConfig config;
  config.strategy = strategy;
  config.anchors = std::move(anchors);
  return config;
}

}  // namespace crnet::testing
