// The parts of a run that a checkpoint holds, and their way in and out of it.
#pragma once

#include <memory>

#include "crnet/data/dataset.h"
#include "crnet/data/loader.h"
#include "crnet/model/causal_lm.h"
#include "crnet/train/checkpoint.h"
#include "crnet/train/device.h"
#include "crnet/train/optimizer.h"
#include "crnet/train/run_config.h"

namespace crnet {

/// Model, optimizer and counters of a run. Restoring makes it what it was when it was captured, to
/// the bit.
struct RunState {
  RunState(const RunConfig& config, const Runtime& runtime, RecomputePlan plan);

  /// Fresh weights.
  void start(uint64_t seed);
  /// Throws UsageError where the checkpoint is of another model or was trained on other data;
  /// nothing is changed then.
  void restore(const Checkpoint& checkpoint, const RunConfig& config, const DataIndex& data);
  [[nodiscard]] CheckpointContent capture(const RunConfig& config, const Runtime& runtime,
                                          const DataIndex& data,
                                          const std::filesystem::path& tokenizer,
                                          int num_processes) const;

  CausalLM model;
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
