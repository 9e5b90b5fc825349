#include "crnet/model/memory.h"

#include <algorithm>

#include "crnet/model/costs.h"
#include "crnet/ops/linear_cross_entropy.h"

namespace crnet {
namespace {

constexpr int64_t kFp32 = 4;

int64_t out(const ModelConfig& config, Projection p) {
  return config.out_features(p);
}

// Elements per token of the compute dtype that block `layer` keeps, apart from low-rank products.
int64_t block_elements(const ModelConfig& config, int64_t layer) {
  const int64_t C = config.hidden_size, F = config.ffn_size, kv = out(config, Projection::kK);
  const bool grouped = config.kv_heads() != config.num_heads;
  // Residual stream at both norms and the norms' results; gate, up and their product; attention's
  // queries, keys and values (spread over the query heads where those are grouped) and its result.
  int64_t elements = 4 * C + 3 * F + 2 * C + (grouped ? 2 * C : 2 * kv);
  // The block above reads the raw outputs; gate, up and (not grouped) v are counted already.
  const bool is_read_above =
      config.architecture == Architecture::kCRNet && layer + 1 < config.num_layers;
  if (is_read_above) elements += C + kv + (grouped ? kv : 0) + 2 * C;  // q, k, v; o and down
  return elements;
}

int64_t low_rank_elements(const ModelConfig& config, int64_t layer) {
  if (config.is_full_rank(layer)) return 0;
  int64_t sum = 0;
  for (int64_t p = 0; p < kNumProjections; ++p) {
    sum += config.low_rank(layer, static_cast<Projection>(p));
  }
  return sum;
}

// Bytes per token that a block with autograd's own graph keeps.
int64_t graph_bytes(const ModelConfig& config, int64_t layer, int64_t size) {
  // CoLA keeps X A on both sides of its nonlinearity.
  const int64_t sides = config.architecture == Architecture::kCoLA ? 2 : 1;
  const int64_t elements = block_elements(config, layer) + sides * low_rank_elements(config, layer);
  return size * elements + kFp32 * (2 + config.num_heads);  // both norms, attention's log-sum-exp
}

// Bytes per token that a block keeps which is rebuilt.
int64_t rebuilt_bytes(const ModelConfig& config, int64_t layer, const BlockPlan& plan,
                      int64_t size) {
  int64_t elements = config.hidden_size;
  if (plan.products) elements += low_rank_elements(config, layer);
  for (int64_t p = 0; plan.outputs && p < kNumProjections; ++p) {
    if (config.architecture == Architecture::kCRNet) {
      elements += out(config, static_cast<Projection>(p));
    }
  }
  return size * elements;
}

bool has_graph(const StepShape& shape, int64_t layer) {
  return shape.recompute.blocks.empty() || shape.recompute.blocks[static_cast<size_t>(layer)].graph;
}

int64_t activation_bytes(const ModelConfig& config, const StepShape& shape) {
  const int64_t size = shape.bf16 ? 2 : kFp32;
  int64_t per_token = 0;
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    per_token += has_graph(shape, layer)
                     ? graph_bytes(config, layer, size)
                     : rebuilt_bytes(config, layer,
                                     shape.recompute.blocks[static_cast<size_t>(layer)], size);
  }
  per_token += size * 2 * config.hidden_size + kFp32;  // final norm's input; gradient at its result
  return per_token * shape.batch * shape.sequence_length;
}

}  // namespace

int64_t MemoryCounts::total(bool accumulates) const {
  return weights + optimizer + weight_copies + activations + head_gradient +
         (accumulates ? gradients : 0);
}

MemoryCounts count_memory(const ModelConfig& config, const StepShape& shape) {
  const ParameterCounts parameters = count_parameters(config);
  MemoryCounts memory;
  memory.weights = kFp32 * parameters.total();
  memory.gradients = memory.weights;
  memory.optimizer = 2 * memory.weights;
  if (shape.bf16 && !shape.recompute.is_active()) {
    memory.weight_copies = 2 * (parameters.first_block + parameters.later_blocks);
  }
  memory.activations = activation_bytes(config, shape);
  memory.head_gradient = kFp32 * config.vocab_size * config.hidden_size;
  const int64_t rows = default_chunk_rows(shape.batch * shape.sequence_length, config.vocab_size);
  memory.logits_chunk = (shape.bf16 ? 2 : kFp32) * rows * config.vocab_size;
  return memory;
}

}  // namespace crnet
