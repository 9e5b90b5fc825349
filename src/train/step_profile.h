// Where the time of training steps goes, operator by operator.
#pragma once

#include <string>
#include <vector>

#include "crnet/train/bench.h"
#include "train/profiler.h"

namespace crnet {

/// The ranges that start with this are training steps; see train_step().
inline constexpr const char* kStepRange = "ProfilerStep#";

/// The self time of every operator (its range without those in it) in the threads that ran the
/// steps, per step, in groups; the longest first. What is outside of the steps does not count, so
/// all of it together is the mean time of a step.
///
/// `of_kernels`: the time of what ran on the device, and what it waited in between; nothing where
/// no kernel was recorded.
[[nodiscard]] std::vector<OperatorGroup> break_down(std::vector<RecordedRange> ranges,
                                                    bool of_kernels = false);

}  // namespace crnet
