// CUDA graphs, for layers that do not see CUDA's headers.
#pragma once

#include <torch/types.h>

#include <functional>
#include <memory>

namespace crnet {

/// Work of a GPU that is queued once and started any number of times.
class CudaGraph {
 public:
  virtual ~CudaGraph() = default;
  /// Records what `work` queues, on a stream of its own, and runs none of it. Nothing in it may
  /// wait for the device: LibTorch throws. Tensors that it makes lie in the graph's own memory,
  /// where every replay() writes them anew; what is to be read then has to be held.
  virtual void record(const std::function<void()>& work) = 0;
  /// Starts it on LibTorch's current stream.
  virtual void replay() = 0;
};

/// With `beside`, in the same memory as that graph, which must not run at the same time. Throws
/// UsageError in a build without CUDA kernels.
[[nodiscard]] std::unique_ptr<CudaGraph> make_cuda_graph(torch::Device device,
                                                         CudaGraph* beside = nullptr);

namespace cuda {
/// The same, where there are kernels (src/ops/cuda/graph.cpp).
[[nodiscard]] std::unique_ptr<CudaGraph> make_graph(torch::Device device, CudaGraph* beside);
}  // namespace cuda

}  // namespace crnet
