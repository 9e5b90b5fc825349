// Proof, on a configuration's own terms, that a resumed run is the run that never stopped.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "crnet/config/load.h"
#include "crnet/dist/launch.h"
#include "crnet/train/run_config.h"

namespace crnet {

struct VerifyResumeOptions {
  int64_t steps = 20;                 ///< of both runs; at most train.steps, whose schedule stays
  std::optional<int64_t> stop_after;  ///< the step after which one stops; none: half of them
  /// A new or empty folder for both runs, which stay there. "": a temporary one beside
  /// train.run_dir, which is removed unless `keep` is set or the runs differ.
  std::filesystem::path folder;
  bool keep = false;
  std::string program = "crnet";  ///< as in TrainOptions
  Launch launch = {};             ///< as in TrainOptions
};

/// The same on all processes.
struct VerifyResumeResult {
  std::string difference;  ///< one line on the first one; "": all is equal, bit by bit
  int64_t num_steps = 0, stopped_after = 0;
  int64_t num_tensors = 0, num_elements = 0;  ///< compared, of weights and optimizer
  std::filesystem::path folder;  ///< with the runs, in straight/ and resumed/; "": removed
};

/// Trains `steps` steps at once, and in a second folder as many in two parts, the second resumed
/// from the first one's checkpoint; then compares the two: metrics of every step, state, weights
/// and the optimizer's tensors. Only the checkpoint can have carried LibTorch's generator over.
/// Under recompute.strategy auto both follow the first run's plan, as a resumed run does. The first
/// process compares, and reads every part of the checkpoints, so folders have to be on a disk that
/// all share.
///
/// Throws UsageError for steps that do not fit and a folder that is in use, before anything is
/// created; Error where a signal stops it; and what train() throws.
VerifyResumeResult verify_resume(const LoadedConfig<RunConfig>& loaded,
                                 const VerifyResumeOptions& options = {});

}  // namespace crnet
