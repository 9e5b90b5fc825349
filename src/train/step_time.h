// How long a training step should take, from counts and measured rates.
#pragma once

#include "crnet/model/memory.h"
#include "crnet/train/machine_rates.h"

namespace crnet {

/// Seconds of the forward and backward pass of one micro-batch under its plan.
[[nodiscard]] double predict_seconds(const ModelConfig& config, const StepShape& shape,
                                     const MachineRates& rates);

}  // namespace crnet
