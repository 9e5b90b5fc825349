// The forward and backward pass of a micro-batch, at once or as a CUDA graph.
#pragma once

#include <memory>
#include <vector>

#include "crnet/data/loader.h"
#include "crnet/dist/data_parallel.h"
#include "crnet/model/causal_lm.h"
#include "ops/cuda_graph.h"

namespace crnet {

/// Passes of one model. They may be recorded: after a few that are not, a GPU gets each as one CUDA
/// graph in place of thousands of kernels, which the host may start too slowly where they are
/// short.
class TrainingPass {
 public:
  /// Passes that are not recorded, in which libraries choose their kernels.
  static constexpr int64_t kFirstPasses = 2;

  /// `model` and `parallel` must outlive it.
  TrainingPass(CausalLMImpl& model, DataParallel& parallel, torch::Device device);

  /// Passes are recorded from now on, kFirstPasses and the rest of their step apart. All
  /// micro-batches need one shape then, and parameters and the plan have to stay where they are.
  /// Gradients stay in memory when they are let go of. Throws UsageError where that cannot be: on a
  /// CPU, in a build without CUDA kernels, in one of several processes, and with a plan that
  /// inverts, for which the host reads every β.
  void record(int num_processes);

  /// Adds the gradients of the mean loss to those of the parameters; with `reduce` averages them
  /// over the processes, as DataParallel::backward. Returns the loss, [] on the device. A profiler
  /// sees crnet::forward and crnet::backward, or crnet::recorded_pass. Throws Error where a pass
  /// cannot be recorded; nothing can be done on the GPU then. In a debug build c10::Error comes
  /// where a pass of a single process waits for the GPU, but for those in which libraries
  /// start up and for what an inverting plan has to read.
  torch::Tensor run(const Batch& batch, bool reduce);

 private:
  struct Recorded {
    std::unique_ptr<CudaGraph> graph;
    torch::Tensor loss;  // of the last replay; undefined before it is recorded
  };
  [[nodiscard]] bool asserts_no_waiting() const;
  torch::Tensor run_now(const torch::Tensor& tokens, const torch::Tensor& targets, bool reduce);
  torch::Tensor replay(const Batch& batch, const Recorded& pass);
  void record_pass(Recorded& pass);
  void record_first(const Batch& batch);

  CausalLMImpl& model_;
  DataParallel& parallel_;
  const torch::Device device_;
  int64_t num_unrecorded_ = 0;
  std::vector<torch::Tensor> parameters_, gradients_;  // what graphs write gradients to
  torch::Tensor tokens_, targets_;                     // [B, T] int64, what they read
  Recorded first_, next_;  // of a step: makes the gradients; adds to them
};

}  // namespace crnet
