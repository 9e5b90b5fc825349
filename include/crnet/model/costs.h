// What a model costs, from its shape alone: parameters and FLOPs.
#pragma once

#include <cstdint>
#include <vector>

#include "crnet/model/config.h"
#include "crnet/recompute/plan.h"

namespace crnet {

/// Parameters by part; the formulas of docs/method.md.
struct ParameterCounts {
  int64_t embedding = 0;     ///< V·C
  int64_t head = 0;          ///< V·C, or 0 where tied
  int64_t first_block = 0;   ///< projections of block 1
  int64_t later_blocks = 0;  ///< projections of blocks 2 … L, β included where it is learnable
  int64_t norms = 0;         ///< (2L + 1)·C
  [[nodiscard]] int64_t total() const {
    return embedding + head + first_block + later_blocks + norms;
  }
};
ParameterCounts count_parameters(const ModelConfig& config);

/// Weights of the seven projections of block `layer` (from 0), β not included.
int64_t count_block_weights(const ModelConfig& config, int64_t layer);

/// Elements of every matrix, by the units of CausalLMImpl::parameter_units(): the embedding, each
/// block, the head (none where it is tied).
std::vector<std::vector<int64_t>> count_matrix_elements(const ModelConfig& config);

/// FLOPs of matrix products per token, at 2 per multiply-add; element-wise work is not counted.
struct FlopCounts {
  double projections = 0;  ///< forward, all blocks
  double attention = 0;    ///< forward; a query sees (T + 1)/2 keys on average
  double head = 0;         ///< forward
  [[nodiscard]] double forward() const { return projections + attention + head; }
  /// Forward and backward: every product has two of its size in the backward pass.
  [[nodiscard]] double training() const { return 3 * forward(); }
};
FlopCounts count_flops(const ModelConfig& config, int64_t sequence_length);

/// FLOPs per token that the backward pass does again under a plan, as FlopCounts counts them.
struct RecomputeCounts {
  double projections = 0;
  double attention = 0;
  [[nodiscard]] double total() const { return projections + attention; }
};
RecomputeCounts count_recompute(const ModelConfig& config, int64_t sequence_length,
                                const RecomputePlan& plan);
/// The part of block `layer` (from 0).
RecomputeCounts count_block_recompute(const ModelConfig& config, int64_t sequence_length,
                                      const RecomputePlan& plan, int64_t layer);

/// The same shape at full rank: what a low-rank model is compared with.
ModelConfig dense_equivalent(const ModelConfig& config);

}  // namespace crnet
