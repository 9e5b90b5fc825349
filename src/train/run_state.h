// The parts of a run that a checkpoint holds, and their way in and out of it.
#pragma once

#include "crnet/data/dataset.h"
#include "crnet/train/checkpoint.h"
#include "crnet/train/device.h"
#include "crnet/train/optimizer.h"
#include "crnet/train/parallel_model.h"
#include "crnet/train/run_config.h"
#include "train/training_pass.h"

namespace crnet {

/// Model, optimizer and counters of a run. Restoring makes it what it was when it was captured, to
/// the bit, on any number of processes.
struct RunState : ParallelModel {
  RunState(const RunConfig& config, const Runtime& runtime, RecomputePlan plan, Group& group);

  /// Throws UsageError where the checkpoint is of another model or was trained on other data;
  /// nothing is changed then.
  void restore(const Checkpoint& checkpoint, const RunConfig& config, const DataIndex& data);
  /// This process's share of it all.
  [[nodiscard]] CheckpointContent capture(const RunConfig& config, const Runtime& runtime,
                                          const DataIndex& data,
                                          const std::filesystem::path& tokenizer,
                                          const Group& group) const;

  TrainingPass pass;
  AdamW optimizer;
  int64_t step = 0;              ///< updates tried
  int64_t samples_consumed = 0;  ///< sequences taken from the loader
  int64_t tokens_seen = 0;
  int64_t skipped_steps = 0;
  int64_t bad_steps_in_a_row = 0;
  double smoothed_loss = 0;  ///< with smoothing_weight: an exponential mean without start-up bias
  double smoothing_weight = 0;
};

/// Warns of every setting that differs from those of the checkpoint and decides the numbers.
void warn_of_changes(const Checkpoint& checkpoint, const RunConfig& config, const Runtime& runtime,
                     int num_processes);

}  // namespace crnet
