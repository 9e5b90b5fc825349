// The matrix products and attention calls of a training step, from a model's shape alone.
//
// Shapes: N tokens of a micro-batch, B batch, T sequence, C hidden, H heads, D head size, R low
// rank, V vocabulary.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <vector>

#include "crnet/model/config.h"

namespace crnet {

/// [rows, inner] · [inner, columns]. A transposed operand lies in memory the other way round.
struct MatrixProduct {
  int64_t rows = 0, inner = 0, columns = 0;
  bool left_transposed = false, right_transposed = false;
  [[nodiscard]] double flops() const {
    return 2.0 * static_cast<double>(rows) * static_cast<double>(inner) *
           static_cast<double>(columns);
  }
};

/// Causal attention, forward and backward.
struct AttentionCall {
  int64_t batch = 0, length = 0, heads = 0, head_size = 0;
  /// A query sees (T + 1)/2 keys on average, and the backward pass is twice the forward pass.
  [[nodiscard]] double flops() const;
};

/// What forward and backward pass of one micro-batch cannot avoid, in the order of the step: every
/// product, with the two of its gradients. The head's are in chunks of tokens, as
/// linear_cross_entropy makes them. What recomputation does again is not there.
struct StepProducts {
  std::vector<MatrixProduct> products;
  std::vector<AttentionCall> attentions;  ///< one per block
  [[nodiscard]] double flops() const;
};
[[nodiscard]] StepProducts list_step_products(const ModelConfig& config, int64_t batch,
                                              int64_t sequence_length, bool on_cpu,
                                              torch::ScalarType dtype);

}  // namespace crnet
