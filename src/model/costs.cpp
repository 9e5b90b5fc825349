#include "crnet/model/costs.h"

namespace crnet {
namespace {

// Weights of one projection, β not included: what multiplies every token.
int64_t matrix_weights(const ModelConfig& config, int64_t layer, Projection projection) {
  const int64_t in = config.in_features(projection), out = config.out_features(projection);
  if (config.is_full_rank(layer)) return in * out;
  return (in + out) * config.low_rank(layer, projection);
}

int64_t block_weights(const ModelConfig& config, int64_t layer) {
  int64_t sum = 0;
  for (int64_t p = 0; p < kNumProjections; ++p) {
    sum += matrix_weights(config, layer, static_cast<Projection>(p));
  }
  return sum;
}

}  // namespace

ParameterCounts count_parameters(const ModelConfig& config) {
  ParameterCounts counts;
  const int64_t C = config.hidden_size, V = config.vocab_size, L = config.num_layers;
  counts.embedding = V * C;
  counts.head = config.tie_embeddings ? 0 : V * C;
  counts.norms = (2 * L + 1) * C;
  counts.first_block = block_weights(config, 0);
  for (int64_t layer = 1; layer < L; ++layer) counts.later_blocks += block_weights(config, layer);
  if (config.architecture == Architecture::kCRNet && config.learnable_beta) {
    counts.later_blocks += kNumProjections * (L - 1);
  }
  return counts;
}

FlopCounts count_flops(const ModelConfig& config, int64_t sequence_length) {
  FlopCounts flops;
  const auto C = static_cast<double>(config.hidden_size),
             V = static_cast<double>(config.vocab_size);
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    flops.projections += 2.0 * static_cast<double>(block_weights(config, layer));
  }
  // q kᵀ and the weighted sum of v: 2 · 2 · C for each key seen.
  flops.attention = static_cast<double>(config.num_layers) * 4 * C *
                    (static_cast<double>(sequence_length) + 1) / 2;
  flops.head = 2 * C * V;
  return flops;
}

ModelConfig dense_equivalent(const ModelConfig& config) {
  ModelConfig dense = config;
  dense.architecture = Architecture::kLlama;
  return dense;
}

}  // namespace crnet
