// The learning rate over the steps.
#pragma once

#include <cstdint>

#include "crnet/train/run_config.h"

namespace crnet {

/// The learning rate of update `step` (from 0) of `total`. Linear warm-up from lr/warmup to lr over
/// warmup_steps, then
/// - cosine: half a cosine from lr down to lr · final_lr_ratio at the last step;
/// - wsd: lr until decay_steps before the end, then linear down to lr · final_lr_ratio;
/// - constant: lr.
/// A function of its arguments alone, so that a resumed run needs no state.
double learning_rate(const ScheduleConfig& schedule, double lr, int64_t step, int64_t total);

}  // namespace crnet
