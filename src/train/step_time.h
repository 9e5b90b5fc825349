// How long a training step should take, from counts and measured rates.
#pragma once

#include <vector>

#include "crnet/model/memory.h"
#include "crnet/train/machine_rates.h"

namespace crnet {

/// What a unit of parameters (the embedding, a block, the head) takes, recomputation included.
struct UnitSeconds {
  double forward = 0, backward = 0;
};

/// Of one micro-batch under its plan, by unit: the embedding, each block, the head.
[[nodiscard]] std::vector<UnitSeconds> predict_units(const ModelConfig& config,
                                                     const StepShape& shape,
                                                     const MachineRates& rates);

/// Seconds of the forward and backward pass of one micro-batch under its plan.
[[nodiscard]] double predict_seconds(const ModelConfig& config, const StepShape& shape,
                                     const MachineRates& rates);

}  // namespace crnet
