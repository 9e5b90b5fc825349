// What DataParallel, the model and the optimizer hold of parameters in each of several processes.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <vector>

#include "crnet/dist/config.h"
#include "crnet/model/config.h"
#include "crnet/model/state_memory.h"

namespace crnet {

/// A unit of parameters as ShardedParameters splits it over a shard group.
struct UnitLayout {
  std::vector<int64_t> counts;  ///< elements of each parameter
  int64_t total = 0;            ///< of them all
  int64_t part = 0;             ///< of a process, padding included
  int64_t whole = 0;            ///< of the group's parts together
  int64_t element_bytes = 4;    ///< in which weights are gathered
};

/// How parameters are shared.
struct Sharing {
  int64_t num_processes = 1;
  DistConfig dist;
  bool nccl = false;  ///< else Gloo, which has no sum in parts but by an exchange of everything

  [[nodiscard]] bool is_sharded() const;
  /// Processes among which parameters are split: 1 where they are not.
  [[nodiscard]] int64_t shard_size() const;
  /// Bytes of a gradient's element on its way.
  [[nodiscard]] int64_t wire_bytes() const;
};

[[nodiscard]] Sharing sharing_of(const DistConfig& dist, int num_processes, torch::Device device);

/// The embedding, each block, the head, and last what is no matrix.
[[nodiscard]] std::vector<UnitLayout> lay_out_units(const ModelConfig& config, bool bf16,
                                                    int64_t shard_size);

/// In which c10d::Reducer averages gradients, the head's first.
struct ReducerBucket {
  size_t unit;  ///< that completes it
  double made;  ///< part of its gradients that the backward pass has made by then
  int64_t elements;
};
/// `units` as lay_out_units() gives them.
[[nodiscard]] std::vector<ReducerBucket> reducer_buckets(const std::vector<UnitLayout>& units,
                                                         int64_t bucket_bytes);

/// As count_state(config, bf16, accumulates), in each of several processes.
[[nodiscard]] StateMemory count_state(const ModelConfig& config, bool bf16, bool accumulates,
                                      const Sharing& sharing);

}  // namespace crnet
