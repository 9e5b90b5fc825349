// A training run, from its configuration to its last checkpoint.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "crnet/config/load.h"
#include "crnet/dist/launch.h"
#include "crnet/recompute/plan.h"
#include "crnet/train/run_config.h"

namespace crnet {

/// Steps before those that are profiled: the first ones allocate what later ones use again.
inline constexpr int64_t kProfileWarmup = 3;

struct TrainOptions {
  /// "": start anew; the run's folder must not hold a run. "auto": go on from the newest sound
  /// checkpoint of the run's folder, or start anew where it has none (metrics of an attempt that
  /// left none are renamed to metrics-before-restart-N.jsonl). Else a checkpoint's folder,
  /// which must not be older than the newest one in the run's folder.
  std::string resume = {};
  /// Ends this part after that step, with a checkpoint, as a signal does; the schedule stays that
  /// of train.steps. 0: goes on to train.steps, and where a signal stops it, it says the command to
  /// go on with. The same on all processes.
  int64_t stop_after = 0;
  /// What a fresh run under recompute.strategy auto follows in place of a plan of its own; the
  /// first process's. So that two runs round alike: the planner measures, and may choose another
  /// each time.
  std::optional<RecomputePlan> plan = std::nullopt;
  /// Steps of which trace.json is written, after the first kProfileWarmup ones of this part of the
  /// run; 0: none.
  int64_t profile_steps = 0;
  /// The program, as in the command that a stopped run prints to go on.
  std::string program = "crnet";
  /// This process's place among those that train together; see detect_launch().
  Launch launch = {};
};

struct TrainSummary {
  int64_t steps = 0;          ///< updates done in all, earlier parts of the run included
  int64_t skipped_steps = 0;  ///< updates left out for a loss or gradient that was not finite
  bool stopped = false;       ///< by a signal or stop_after, before train.steps
  double final_loss = 0;      ///< training loss of the last step, nats per token
  std::optional<double> validation_loss;  ///< of the last validation
  std::filesystem::path run_dir, checkpoint;
};

/// Trains, and writes into train.run_dir:
///
///   config.yaml     the resolved configuration, with the source of every value
///   run.json        version, device, precision, counts, start
///   config-from-STEP.yaml, run-from-STEP.json   the same of a later part
///   metrics.jsonl   see metrics.h
///   loss.svg        the curve so far
///   train.log       what was said on the terminal
///   trace.json      what happened when, for Perfetto, if asked for; of several processes each
///                   writes its trace-RANK.json
///   checkpoints/    see checkpoint.h
///
/// A run that is stopped and resumed is bit by bit the run that never stopped, on one machine's CPU
/// with one thread count (on CUDA LibTorch's fused attention is not deterministic). One process at
/// a time trains in a folder, or one group of processes: the first writes, the others only train.
/// What one process decides or cannot do, all do or report. SIGINT, SIGTERM and SIGUSR1 to any end
/// it after the step at hand with a checkpoint. A loss or gradient that is not finite leaves the
/// weights alone; train.max_bad_steps of them in a row end the run with an Error, and no checkpoint
/// is written.
///
/// Throws UsageError, before anything is created, for a configuration that does not fit the data or
/// the machine, and Error for what fails later.
TrainSummary train(const LoadedConfig<RunConfig>& loaded, const TrainOptions& options = {});

}  // namespace crnet
