// Training steps without data, to be timed.
#pragma once

#include "crnet/dist/group.h"
#include "crnet/train/device.h"
#include "crnet/train/run_config.h"
#include "train/run_state.h"
#include "train/train_step.h"

namespace crnet {

/// A run in one process whose every step sees the same random tokens: train.micro_batch sequences
/// of data.sequence_length.
class RandomTraining {
 public:
  RandomTraining(const RunConfig& config, const Runtime& runtime, const RecomputePlan& plan);
  /// Forward and backward pass, clipping, AdamW.
  StepResult step();

 private:
  Group group_;
  RunState state_;
  Batch batch_;  // [B, T]
  StepPlan plan_;
};

}  // namespace crnet
