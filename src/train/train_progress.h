// What a person sees of a run while it goes on.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

#include "crnet/core/status_line.h"
#include "crnet/train/metrics.h"

namespace crnet {

/// One rewritten line on a terminal; elsewhere a log line every `log_every` steps.
class TrainProgress {
 public:
  TrainProgress(int64_t total_steps, int64_t log_every);

  void show(const StepMetrics& metrics);
  /// A log line in both cases.
  void show(const EvalMetrics& metrics);
  void note(const std::string& what);  ///< "validating", "saving": on the terminal only

 private:
  std::string line(const StepMetrics& metrics) const;

  int64_t total_steps_, log_every_;
  double mean_seconds_ = 0;  // per step, exponential
  std::string last_line_;
  StatusLine status_;
};

}  // namespace crnet
