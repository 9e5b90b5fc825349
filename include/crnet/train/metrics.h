// metrics.jsonl: one JSON object per line, what a run measured, to read with anything.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "crnet/core/file.h"
#include "crnet/train/loss_plot.h"

namespace crnet {

/// One update.
struct StepMetrics {
  int64_t step = 0;          ///< updates tried so far, this one included
  double loss = 0;           ///< mean over the global batch, nats per token
  double smoothed_loss = 0;  ///< exponential mean over about 20 steps
  double lr = 0;
  double grad_norm = 0;  ///< before clipping
  bool skipped = false;  ///< loss or gradient was not finite, so the weights stayed
  int64_t tokens_seen = 0;
  double seconds = 0;  ///< this step alone
  double tokens_per_second = 0;
  double peak_share = 0;     ///< model FLOP/s over the machine's measured rate of matrix products
  int64_t memory_bytes = 0;  ///< greatest so far
  std::optional<int64_t> replayed_spans;  ///< under recompute.strategy inverse: see BlockStack
  std::optional<double> recompute_drift;  ///< largest of a projection, where it was measured
};

/// One validation, after `step` updates.
struct EvalMetrics {
  int64_t step = 0;
  double loss = 0;  ///< nats per token
  double perplexity = 0;
  int64_t tokens = 0;
};

/// Appends to a metrics file and keeps the curve for the picture. Where the disk has no room, lines
/// wait in memory for the next, with a warning: a run is worth more than its figures.
class MetricsFile {
 public:
  /// Goes on with an existing file up to and including `last_step`; what a killed run wrote beyond
  /// its checkpoint is dropped, since those steps are done again. Throws Error where the file
  /// cannot be read or written.
  MetricsFile(std::filesystem::path path, int64_t last_step);

  void write(const StepMetrics& metrics);
  void write(const EvalMetrics& metrics);
  /// Writes what waits; throws Error where that fails.
  void flush();

  [[nodiscard]] const LossCurve& curve() const { return curve_; }

 private:
  void append(const std::string& line);
  void add_to_curve(int64_t step, double loss, double smoothed);

  std::filesystem::path path_;
  detail::Descriptor file_;
  std::string waiting_;
  bool has_warned_ = false;
  LossCurve curve_;
};

}  // namespace crnet
