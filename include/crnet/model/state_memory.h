// What parameters, their gradients and the optimizer take of a process's memory during a step.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "crnet/model/config.h"

namespace crnet {

/// Bytes. Units are those of CausalLMImpl::parameter_units(): the embedding, with everything that
/// is no matrix, then each block, then the head.
struct StateMemory {
  struct Unit {
    int64_t gathered = 0;  ///< weights that are there only while this unit or the next is used
    int64_t copy = 0;      ///< weights in the compute dtype, from the forward to the backward pass
    int64_t made = 0;      ///< gradients as the backward pass makes them
    int64_t largest = 0;   ///< the largest of these
    int64_t kept = 0;      ///< what the unit's gradients then add until the backward pass ends
    int64_t in_transit = 0;  ///< buffers in which they travel
  };
  // There through the whole step.
  int64_t weights = 0;    ///< that are computed with, where the masters are others
  int64_t masters = 0;    ///< fp32
  int64_t moments = 0;    ///< AdamW's two, fp32
  int64_t gradients = 0;  ///< buckets, and the sums over earlier micro-batches
  int64_t buffers = 0;    ///< of communication
  /// Gradients stay where the backward pass makes them. Else these go once they are taken from
  /// there: one matrix at a time, or all of a block that is rebuilt.
  bool keeps_made = false;
  /// Units whose gradients travel at once, before the backward pass waits for them.
  size_t units_in_transit = 1;
  std::vector<Unit> units;
};

/// Without other processes: fp32 masters, gradients and moments. `accumulates`: gradients of a
/// former micro-batch are there.
[[nodiscard]] StateMemory count_state(const ModelConfig& config, bool bf16, bool accumulates);

}  // namespace crnet
