// What recomputation did in a step.
#pragma once

#include <set>

#include "crnet/recompute/block_stack.h"
#include "crnet/train/metrics.h"

namespace crnet {

/// Made before a step, finished after it.
class RecomputeReport {
 public:
  RecomputeReport(const BlockStack& stack, torch::ScalarType compute_dtype);

  /// Logs which spans are replayed from this step on, and, where the step has checked it, the drift
  /// of what was rebuilt; both are added to the step's metrics.
  void finish(bool has_checked_drift, StepMetrics& metrics) const;

 private:
  void report_drift(StepMetrics& metrics) const;

  const BlockStack& stack_;
  const torch::ScalarType compute_dtype_;
  const std::set<BlockStack::Span> replayed_before_;
};

}  // namespace crnet
