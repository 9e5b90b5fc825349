#include "ops/cuda_graph.h"

#include "crnet/core/error.h"
#include "ops/cuda/dispatch.h"

namespace crnet {

std::unique_ptr<CudaGraph> make_cuda_graph([[maybe_unused]] torch::Device device,
                                           [[maybe_unused]] CudaGraph* beside) {
  if constexpr (cuda::kIsCompiled) {
    return cuda::make_graph(device, beside);
  } else {
    throw UsageError(
        "[cuda] expected a build with CUDA kernels to record a graph, got one without");
  }
}

WaitingRule::WaitingRule([[maybe_unused]] bool forbidden) {
  if constexpr (cuda::kIsCompiled) was_forbidden_ = cuda::forbid_waiting(forbidden);
}

WaitingRule::~WaitingRule() {
  if constexpr (cuda::kIsCompiled) cuda::forbid_waiting(was_forbidden_);
}

}  // namespace crnet
