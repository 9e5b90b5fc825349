#include "crnet/model/costs.h"

#include <algorithm>

namespace crnet {
namespace {

// Weights of one projection, β not included: what multiplies every token.
int64_t matrix_weights(const ModelConfig& config, int64_t layer, Projection projection) {
  const int64_t in = config.in_features(projection), out = config.out_features(projection);
  if (config.is_full_rank(layer)) return in * out;
  return (in + out) * config.low_rank(layer, projection);
}

// Scores and weighted sum of one block, forward: 2 · 2 · C for each key seen.
double attention_flops(const ModelConfig& config, int64_t sequence_length) {
  return 4 * static_cast<double>(config.hidden_size) * (static_cast<double>(sequence_length) + 1) /
         2;
}

// Entries of the factors B of one block.
int64_t up_weights(const ModelConfig& config, int64_t layer) {
  int64_t sum = 0;
  for (int64_t p = 0; p < kNumProjections; ++p) {
    const auto projection = static_cast<Projection>(p);
    sum += config.out_features(projection) * config.low_rank(layer, projection);
  }
  return sum;
}

// Weights that multiply again when block `layer` is rebuilt.
int64_t weights_again(const ModelConfig& config, const RecomputePlan& plan, int64_t layer) {
  const BlockPlan& block = plan.blocks[static_cast<size_t>(layer)];
  if (!block.products) return count_block_weights(config, layer);
  if (config.architecture != Architecture::kCRNet) return up_weights(config, layer);
  if (block.outputs) return 0;
  // Inversion multiplies the block above's X A and B.
  const int64_t last = config.num_layers - 1;
  return up_weights(config, plan.inverts ? std::min(layer + 1, last) : layer);
}

}  // namespace

int64_t count_block_weights(const ModelConfig& config, int64_t layer) {
  int64_t sum = 0;
  for (int64_t p = 0; p < kNumProjections; ++p) {
    sum += matrix_weights(config, layer, static_cast<Projection>(p));
  }
  return sum;
}

std::vector<std::vector<int64_t>> count_matrix_elements(const ModelConfig& config) {
  const int64_t vocabulary = config.vocab_size * config.hidden_size;
  std::vector<std::vector<int64_t>> units = {{vocabulary}};
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    auto& matrices = units.emplace_back();
    for (int64_t p = 0; p < kNumProjections; ++p) {
      const auto projection = static_cast<Projection>(p);
      const int64_t in = config.in_features(projection), out = config.out_features(projection);
      if (config.is_full_rank(layer)) {
        matrices.push_back(in * out);
      } else {
        const int64_t r = config.low_rank(layer, projection);
        matrices.insert(matrices.end(), {in * r, r * out});
      }
    }
  }
  units.emplace_back();
  if (!config.tie_embeddings) units.back().push_back(vocabulary);
  return units;
}

ParameterCounts count_parameters(const ModelConfig& config) {
  ParameterCounts counts;
  const int64_t C = config.hidden_size, V = config.vocab_size, L = config.num_layers;
  counts.embedding = V * C;
  counts.head = config.tie_embeddings ? 0 : V * C;
  counts.norms = (2 * L + 1) * C;
  counts.first_block = count_block_weights(config, 0);
  for (int64_t layer = 1; layer < L; ++layer)
    counts.later_blocks += count_block_weights(config, layer);
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
    flops.projections += 2.0 * static_cast<double>(count_block_weights(config, layer));
  }
  flops.attention =
      static_cast<double>(config.num_layers) * attention_flops(config, sequence_length);
  flops.head = 2 * C * V;
  return flops;
}

RecomputeCounts count_block_recompute(const ModelConfig& config, int64_t sequence_length,
                                      const RecomputePlan& plan, int64_t layer) {
  const BlockPlan& block = plan.blocks[static_cast<size_t>(layer)];
  RecomputeCounts counts;
  if (block.graph) return counts;
  counts.projections = 2 * static_cast<double>(weights_again(config, plan, layer));
  if (!block.attention) counts.attention = attention_flops(config, sequence_length);
  return counts;
}

RecomputeCounts count_recompute(const ModelConfig& config, int64_t sequence_length,
                                const RecomputePlan& plan) {
  RecomputeCounts counts;
  for (size_t layer = 0; layer < plan.blocks.size(); ++layer) {
    const auto block =
        count_block_recompute(config, sequence_length, plan, static_cast<int64_t>(layer));
    counts.projections += block.projections;
    counts.attention += block.attention;
  }
  return counts;
}

ModelConfig dense_equivalent(const ModelConfig& config) {
  ModelConfig dense = config;
  dense.architecture = Architecture::kLlama;
  return dense;
}

}  // namespace crnet
