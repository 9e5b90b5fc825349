// One update of the weights.
#pragma once

#include <functional>

#include "crnet/data/loader.h"
#include "crnet/dist/data_parallel.h"
#include "crnet/dist/group.h"
#include "crnet/train/optimizer.h"
#include "train/training_pass.h"

namespace crnet {

struct StepResult {
  double loss = 0;       ///< mean over the micro-batches of all processes, nats per token
  double grad_norm = 0;  ///< of the mean gradient, before clipping
  bool skipped = false;  ///< either was not finite: the weights are as before
  bool stops = false;    ///< a process wants to stop
};

struct StepPlan {
  int64_t number = 1;             ///< of the step, from 1
  int64_t num_micro_batches = 1;  ///< of this process
  double lr = 0;
  double clip_norm = 0;
  bool wants_to_stop = false;  ///< this process; all hear of it
};

/// Takes the micro-batches from `next_batch`, accumulates their gradients, averages them over the
/// processes, clips and updates. The result is the same on all processes. A profiler sees the step
/// as the range ProfilerStep#NUMBER, which is what PyTorch's tools look for, and its stages in it.
StepResult train_step(TrainingPass& pass, const std::function<Batch()>& next_batch,
                      AdamW& optimizer, Group& group, DataParallel& data_parallel,
                      const StepPlan& plan);

}  // namespace crnet
