// A step of one of several processes in time: what it computes, and when it waits for what travels.
#pragma once

#include <vector>

#include "crnet/model/memory.h"
#include "crnet/train/machine_rates.h"
#include "crnet/train/network.h"
#include "train/parallel_state.h"

namespace crnet {

struct StepTimes {
  double seconds = 0;
  double communication = 0;  ///< seconds in which something travels
  double exposed = 0;        ///< of these, those in which the process waits for it
  double bytes = 0;          ///< that the process sends
};

/// Follows what DataParallel does from one update to the next. Transfers of a group go one after
/// the other, beside what is computed and what other groups send; small sums (the loss, the norm)
/// are not counted.
[[nodiscard]] StepTimes predict_step(const ModelConfig& config, const StepShape& shape,
                                     const MachineRates& rates, int64_t num_micro_batches,
                                     const Sharing& sharing, const Network& network);

}  // namespace crnet
