// Whether two runs are the same, bit by bit.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "crnet/train/checkpoint.h"

namespace crnet {

/// What a run left: metrics.jsonl, and its last checkpoint.
struct RunRecord {
  std::filesystem::path metrics;
  Checkpoint checkpoint;
};

/// One line on the first difference, "" where there is none; and what was compared until then.
struct RunComparison {
  std::string difference;
  int64_t num_steps = 0, num_tensors = 0, num_elements = 0;
};

/// Compares, in this order: the metrics of every step, apart from times, memory and
/// recompute_drift, and of every validation that both have; the checkpoints' state, apart from
/// where the runs are and whether data.verify checked the data; their weights; the optimizer's
/// tensors. Equal are the same bits: −0 differs from 0, and a NaN from one with other bits. Holds
/// two tensors at a time. Throws Error where a file cannot be read.
[[nodiscard]] RunComparison compare_runs(const RunRecord& straight, const RunRecord& resumed);

}  // namespace crnet
