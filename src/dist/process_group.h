// c10d's process group of a run.
#pragma once

#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include <string>

#include "crnet/dist/config.h"
#include "crnet/dist/launch.h"
#include "dist/meeting.h"

namespace crnet {

struct ProcessGroups {
  c10::intrusive_ptr<c10d::ProcessGroup> tensors;  ///< where the model is
  c10::intrusive_ptr<c10d::ProcessGroup>
      control;          ///< Gloo, for numbers on the CPU; may be the same
  std::string backend;  ///< of `tensors`: "gloo" or "nccl"
  /// Those that parameters are split among, neighbours by rank; null where they are not split.
  c10::intrusive_ptr<c10d::ProcessGroup> shard;
  /// Those that have this process's part; null where no other has.
  c10::intrusive_ptr<c10d::ProcessGroup> replicas;
};

/// Processes among which parameters are split; divides `world_size`.
int shard_size(const DistConfig& config, int world_size);

/// Throws UsageError for a backend that the device or this build does not have.
ProcessGroups make_process_groups(const StorePtr& store, const Launch& launch,
                                  const DistConfig& config, torch::Device device);

}  // namespace crnet
