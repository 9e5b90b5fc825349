#include "crnet/dist/data_parallel.h"

#include "dist/replicated_parameters.h"
#include "dist/sharded_parameters.h"

namespace crnet {

bool is_sharded(const DistConfig& config, int num_processes) {
  return config.shard != Sharding::kNone && num_processes > 1;
}

std::unique_ptr<DataParallel> make_data_parallel(Group& group,
                                                 const std::vector<ParameterUnit>& units,
                                                 const DistConfig& config, torch::Device device) {
  if (is_sharded(config, group.size())) {
    return std::make_unique<ShardedParameters>(group, units, config, device);
  }
  return std::make_unique<ReplicatedParameters>(group, units, config);
}

}  // namespace crnet
