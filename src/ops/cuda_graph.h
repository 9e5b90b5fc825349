// CUDA graphs and waiting for a GPU, for layers that do not see CUDA's headers.
#pragma once

#include <torch/types.h>

#include <functional>
#include <memory>

namespace crnet {

/// Work of a GPU that is queued once and started any number of times.
class CudaGraph {
 public:
  virtual ~CudaGraph() = default;
  /// Once: records what `work` queues, on a stream of its own, and runs none of it. Nothing in it
  /// may wait for the device, or c10::Error comes. Tensors that it makes lie in the graph's own
  /// memory, where every replay() writes them anew; what is to be read then has to be held.
  virtual void record(const std::function<void()>& work) = 0;
  /// Starts it on LibTorch's current stream.
  virtual void replay() = 0;
};

/// With `beside`, what that graph's work has freed serves this one too: `beside` has to be recorded
/// first, to live as long, and never to run at the same time. Throws UsageError in a build without
/// CUDA kernels.
[[nodiscard]] std::unique_ptr<CudaGraph> make_cuda_graph(torch::Device device,
                                                         CudaGraph* beside = nullptr);

/// For as long as it lives. Does nothing in a build without CUDA kernels.
class WaitingRule {
 public:
  WaitingRule(const WaitingRule&) = delete;
  WaitingRule& operator=(const WaitingRule&) = delete;

 protected:
  explicit WaitingRule(bool forbidden);
  ~WaitingRule();

 private:
  bool was_forbidden_ = false;
};

/// LibTorch throws where an operator of any thread would wait for a GPU.
class NoWaiting : WaitingRule {
 public:
  NoWaiting() : WaitingRule(true) {}
};

/// Within NoWaiting: here it is meant to wait.
class MayWait : WaitingRule {
 public:
  MayWait() : WaitingRule(false) {}
};

/// The same, where there are kernels (src/ops/cuda/graph.cpp).
namespace cuda {
[[nodiscard]] std::unique_ptr<CudaGraph> make_graph(torch::Device device, CudaGraph* beside);
/// Returns whether it was before.
bool forbid_waiting(bool forbidden);
}  // namespace cuda

}  // namespace crnet
