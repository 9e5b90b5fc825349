#include "train/train_progress.h"

#include "crnet/core/format.h"
#include "crnet/core/log.h"

namespace crnet {

TrainProgress::TrainProgress(int64_t total_steps, int64_t log_every)
    : total_steps_(total_steps), log_every_(log_every) {}

std::string TrainProgress::line(const StepMetrics& m) const {
  const auto left = static_cast<double>(total_steps_ - m.step) * mean_seconds_;
  return format(
      "step %ld/%ld  loss %.4f (%.4f)  lr %.2e  |g| %.2f  %s tok/s  %.0f%% of peak  %s  %s left",
      static_cast<long>(m.step), static_cast<long>(total_steps_), m.loss, m.smoothed_loss, m.lr,
      m.grad_norm, format_count(m.tokens_per_second).c_str(), 100 * m.peak_share,
      format_bytes(static_cast<double>(m.memory_bytes)).c_str(), format_duration(left).c_str());
}

void TrainProgress::show(const StepMetrics& metrics) {
  mean_seconds_ =
      mean_seconds_ == 0 ? metrics.seconds : 0.9 * mean_seconds_ + 0.1 * metrics.seconds;
  last_line_ = line(metrics);
  if (StatusLine::is_terminal()) {
    status_.update(last_line_);
  } else if (metrics.step % log_every_ == 0 || metrics.step == total_steps_ || metrics.step == 1) {
    log::info(last_line_);
  }
}

void TrainProgress::show(const EvalMetrics& m) {
  log::info(format("step %ld: validation loss %.4f, perplexity %.2f over %s tokens",
                   static_cast<long>(m.step), m.loss, m.perplexity,
                   format_count(static_cast<double>(m.tokens)).c_str()));
}

void TrainProgress::note(const std::string& what) {
  status_.update(last_line_.empty() ? what : last_line_ + "  " + what);
}

}  // namespace crnet
