#include "dist/nccl.h"

#include "crnet/core/error.h"

#ifdef CRNET_NCCL
// LibTorch's header is empty without it.
#define USE_C10D_NCCL
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#endif

namespace crnet {

c10::intrusive_ptr<c10d::Backend> make_nccl([[maybe_unused]] const StorePtr& store,
                                            [[maybe_unused]] int rank, [[maybe_unused]] int size,
                                            [[maybe_unused]] std::chrono::milliseconds timeout) {
#ifdef CRNET_NCCL
  auto options = c10d::ProcessGroupNCCL::Options::create();
  options->timeout = timeout;
  return c10::make_intrusive<c10d::ProcessGroupNCCL>(store, rank, size, options);
#else
  throw UsageError(
      "[dist] dist.backend: expected gloo, since crnet was built without NCCL, got nccl; build it "
      "where LibTorch has CUDA and nccl.h is installed");
#endif
}

}  // namespace crnet
