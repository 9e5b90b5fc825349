// c10d's backend for GPUs, in a file of its own: programs without CUDA leave it out.
#pragma once

#include <torch/csrc/distributed/c10d/Backend.hpp>

#include <chrono>

#include "dist/meeting.h"

namespace crnet {

/// Throws UsageError where this build has no NCCL.
c10::intrusive_ptr<c10d::Backend> make_nccl(const StorePtr& store, int rank, int size,
                                            std::chrono::milliseconds timeout);

}  // namespace crnet
