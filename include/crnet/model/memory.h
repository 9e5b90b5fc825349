// What a training step of a model keeps in memory, from its shape alone.
#pragma once

#include <cstdint>

#include "crnet/model/config.h"
#include "crnet/recompute/plan.h"

namespace crnet {

/// The size of one forward pass and its precision.
struct StepShape {
  int64_t batch = 1;             ///< sequences, B
  int64_t sequence_length = 1;   ///< T
  bool bf16 = true;              ///< activations in bf16, else in fp32
  RecomputePlan recompute = {};  ///< no blocks: everything is kept
};

/// Bytes. Weights, gradients and moments are fp32.
struct MemoryCounts {
  int64_t weights = 0;
  int64_t gradients = 0;      ///< when the backward pass is done
  int64_t optimizer = 0;      ///< two moments of AdamW
  int64_t weight_copies = 0;  ///< bf16 copies that the backward pass reads
  int64_t activations = 0;  ///< what the forward pass keeps for the backward pass, per micro-batch
  int64_t head_gradient = 0;  ///< made in the forward pass (linear_cross_entropy), then a gradient
  int64_t logits_chunk = 0;   ///< held while one chunk of tokens passes the head
  /// At the end of the forward pass, where most is held: everything but the logits, with the
  /// gradients of a former micro-batch where there is one.
  [[nodiscard]] int64_t total(bool accumulates) const;
};
MemoryCounts count_memory(const ModelConfig& config, const StepShape& shape);

}  // namespace crnet
