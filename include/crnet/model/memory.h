// What a training step of a model keeps in memory, from its shape alone.
#pragma once

#include <cstdint>

#include "crnet/model/config.h"
#include "crnet/model/state_memory.h"
#include "crnet/recompute/plan.h"

namespace crnet {

/// The size of one forward pass and its precision.
struct StepShape {
  int64_t batch = 1;             ///< sequences, B
  int64_t sequence_length = 1;   ///< T
  bool bf16 = true;              ///< activations in bf16, else in fp32
  RecomputePlan recompute = {};  ///< no blocks: everything is kept
  bool accumulates = false;      ///< gradients of a former micro-batch are there
  bool on_cpu = true;            ///< on this machine's CPU, where grouped keys and values are not
                                 ///< spread out, q and k are rotated again in fp32 too, chunks of
                                 ///< logits are smaller, and products may round weights to bf16
};

/// Whether bf16 copies of the blocks' weights are made: products by crnet's own kernels round the
/// weights as they pack them.
bool casts_weights(const StepShape& shape);
/// Whether attention's results can be held (recompute.keep_attention), and rotated q and k made
/// again: on a CPU, and on a GPU in bf16 for the heads that LibTorch's fused attentions take.
bool can_hold_attention(const ModelConfig& config, const StepShape& shape);

/// Bytes that the forward pass keeps for the backward pass, by kind.
struct ActivationCounts {
  int64_t inputs = 0;     ///< hidden inputs of rebuilt blocks
  int64_t products = 0;   ///< X A of rebuilt blocks
  int64_t outputs = 0;    ///< Y of anchors
  int64_t attention = 0;  ///< kept results of attention in rebuilt blocks, and their log-sum-exp
  int64_t graphs = 0;     ///< everything of the other blocks
  int64_t head = 0;       ///< the final norm's input, and the gradient at its result
  [[nodiscard]] int64_t total() const {
    return inputs + products + outputs + attention + graphs + head;
  }
};

/// Bytes.
struct MemoryCounts {
  int64_t weights = 0;           ///< fp32 masters, and what else is there of weights throughout
  int64_t gradients = 0;         ///< when the backward pass is done
  int64_t optimizer = 0;         ///< two fp32 moments of AdamW
  int64_t weight_copies = 0;     ///< bf16 copies that the backward pass reads; none where products
                                 ///< round weights themselves
  int64_t buffers = 0;           ///< of communication: gathered weights, gradients on their way
  ActivationCounts activations;  ///< per micro-batch
  /// Most at any moment of what was kept and of Y rebuilt from it, apart from the block that is
  /// differentiated and from the head.
  int64_t stored_peak = 0;
  /// Most of a block's graph, of gradients on their way, and of rebuilt Y below.
  int64_t working_set = 0;
  int64_t head_gradient = 0;  ///< made in the forward pass (linear_cross_entropy)
  int64_t logits_chunk = 0;   ///< held while one chunk of tokens passes the head
  int64_t peak = 0;           ///< most at any moment of a step, an estimate
};
[[nodiscard]] MemoryCounts count_memory(const ModelConfig& config, const StepShape& shape,
                                        const StateMemory& state);
/// In one process.
[[nodiscard]] MemoryCounts count_memory(const ModelConfig& config, const StepShape& shape);

}  // namespace crnet
