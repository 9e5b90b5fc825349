// What sharding asks of c10d: a gather, and a sum of which every process gets its part.
#pragma once

#include <torch/types.h>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

namespace crnet {

using ProcessGroupPtr = c10::intrusive_ptr<c10d::ProcessGroup>;
using WorkPtr = c10::intrusive_ptr<c10d::Work>;

/// Starts to fill `whole` [size · n] with everybody's `own` [n], by rank; `own` may lie at its
/// place in `whole`.
[[nodiscard]] WorkPtr start_gather(const ProcessGroupPtr& group, torch::Tensor whole,
                                   torch::Tensor own);

/// A sum over processes, of which each gets one of equal parts.
class ScatteredSum {
 public:
  ScatteredSum() = default;
  /// Starts it. `terms` [size · n]: what this process adds, fp32 or bf16.
  ScatteredSum(const ProcessGroupPtr& group, torch::Tensor terms);

  [[nodiscard]] bool is_running() const { return work_.defined(); }
  /// This process's part, fp32 [n].
  [[nodiscard]] torch::Tensor wait();

 private:
  torch::Tensor terms_, received_;
  bool is_summed_ = false;  // by the backend
  WorkPtr work_;
};

}  // namespace crnet
