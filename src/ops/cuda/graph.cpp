#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>

#include "ops/cuda_graph.h"

namespace crnet::cuda {
namespace {

class LibTorchGraph : public CudaGraph {
 public:
  // The allocator gives a free block to the stream alone that it was made for.
  LibTorchGraph(torch::Device device, LibTorchGraph* beside)
      : device_(device),
        beside_(beside),
        stream_(beside != nullptr
                    ? beside->stream_
                    : c10::cuda::getStreamFromPool(/*isHighPriority=*/false, device.index())) {}

  void record(const std::function<void()>& work) override {
    const c10::cuda::CUDAGuard guard(device_);
    // Memory of passes that were not recorded is of no use to this one.
    c10::cuda::device_synchronize();
    c10::cuda::CUDACachingAllocator::emptyCache();
    const c10::cuda::CUDAStreamGuard stream(stream_);
    // Other threads (the loader's, a checkpoint's) may call CUDA meanwhile.
    graph_.capture_begin(beside_ != nullptr ? beside_->graph_.pool() : c10::MempoolId_t{},
                         cudaStreamCaptureModeThreadLocal);
    try {
      work();
    } catch (...) {
      end_failed_capture();
      throw;
    }
    graph_.capture_end();
  }

  void replay() override { graph_.replay(); }

 private:
  // What `work` threw says more than that the capture has failed.
  void end_failed_capture() {
    try {
      graph_.capture_end();
    } catch (const c10::Error&) {
    }
  }

  torch::Device device_;
  LibTorchGraph* beside_;
  c10::cuda::CUDAStream stream_;
  at::cuda::CUDAGraph graph_;
};

}  // namespace

std::unique_ptr<CudaGraph> make_graph(torch::Device device, CudaGraph* beside) {
  return std::make_unique<LibTorchGraph>(device, static_cast<LibTorchGraph*>(beside));
}

bool forbid_waiting(bool forbidden) {
  using c10::cuda::SyncDebugMode;
  auto& state = c10::cuda::warning_state();
  const bool was_forbidden = state.get_sync_debug_mode() == SyncDebugMode::L_ERROR;
  // A mode that only warns stays where nothing was forbidden.
  if (forbidden != was_forbidden) {
    state.set_sync_debug_mode(forbidden ? SyncDebugMode::L_ERROR : SyncDebugMode::L_DISABLED);
  }
  return was_forbidden;
}

}  // namespace crnet::cuda
