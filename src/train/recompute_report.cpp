#include "train/recompute_report.h"

#include "crnet/core/format.h"
#include "crnet/core/log.h"
#include "crnet/model/config.h"

namespace crnet {
namespace {

// Of the worst projection. Where inversion had 8 % in bf16 (β = 1 over 8 blocks), the gradient was
// off by 2.4 %, where bf16 itself makes 1.7 %; at 14 % (β = 0.9) by 3.0 %. fp32 had 2e-6
// (docs/recomputation.md).
constexpr double kDriftBoundBf16 = 0.15, kDriftBoundFp32 = 1e-4;

}  // namespace

RecomputeReport::RecomputeReport(const BlockStack& stack, torch::ScalarType compute_dtype)
    : stack_(stack), compute_dtype_(compute_dtype), replayed_before_(stack.replayed()) {}

void RecomputeReport::finish(bool has_checked_drift, StepMetrics& metrics) const {
  const auto replayed = stack_.replayed();
  if (stack_.plan().inverts) metrics.replayed_spans = static_cast<int64_t>(replayed.size());
  for (const auto& span : replayed) {
    if (replayed_before_.contains(span)) continue;
    log::info(format(
        "step %ld: %s of blocks %ld to %ld is replayed from now on, since inverting "
        "it would grow errors by more than %g (recompute.max_amplification)",
        static_cast<long>(metrics.step), kProjectionNames[static_cast<size_t>(span.projection)],
        static_cast<long>(span.first), static_cast<long>(span.last),
        stack_.plan().max_amplification));
  }
  if (has_checked_drift && stack_.drift().block > 0) report_drift(metrics);
}

void RecomputeReport::report_drift(StepMetrics& metrics) const {
  metrics.recompute_drift = stack_.drift().worst();
  const double bound = compute_dtype_ == torch::kBFloat16 ? kDriftBoundBf16 : kDriftBoundFp32;
  const std::string found = format(
      "step %ld: rebuilt outputs of block %ld are off by %.2g", static_cast<long>(metrics.step),
      static_cast<long>(stack_.drift().block), *metrics.recompute_drift);
  if (*metrics.recompute_drift <= bound) {  // false for NaN
    log::info(found);
  } else {
    log::warn(found + format(", more than %.2g; lower recompute.max_amplification, or use "
                             "recompute.strategy replay",
                             bound));
  }
}

}  // namespace crnet
