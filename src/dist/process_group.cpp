// LibTorch's header of the backend is empty without it.
#define USE_C10D_GLOO

#include "dist/process_group.h"

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

#include <cstdlib>
#include <string>

#include "crnet/core/error.h"
#include "dist/nccl.h"

namespace crnet {
namespace {

using Group = c10::intrusive_ptr<c10d::ProcessGroup>;
using BackendType = c10d::ProcessGroup::BackendType;
using std::chrono::milliseconds;

// A part of the run's processes, and this one's place in it.
struct Members {
  std::string name;  // of the part, the same on all of its processes alone
  int rank, size;
};

Group with_backend(const StorePtr& store, const Members& members, torch::DeviceType device,
                   BackendType type, const c10::intrusive_ptr<c10d::Backend>& backend) {
  auto group = c10::make_intrusive<c10d::ProcessGroup>(store, members.rank, members.size);
  group->setDefaultBackend(type);
  group->setBackend(device, type, backend);
  return group;
}

// On one host everything stays on the loopback, whatever its name resolves to. GLOO_SOCKET_IFNAME
// names the network of others, as it does for PyTorch.
std::shared_ptr<::gloo::transport::Device> gloo_device(const Launch& launch) {
  if (const char* interface = std::getenv("GLOO_SOCKET_IFNAME")) {
    return c10d::ProcessGroupGloo::createDeviceForInterface(interface);
  }
  if (launch.local_world_size == launch.world_size) {
    return c10d::ProcessGroupGloo::createDeviceForHostname("127.0.0.1");
  }
  return c10d::ProcessGroupGloo::createDefaultDevice();
}

Group make_gloo(const StorePtr& store, const Launch& launch, const Members& members,
                milliseconds timeout) {
  const StorePtr own = c10::make_intrusive<c10d::PrefixStore>("gloo" + members.name, store);
  auto options = c10d::ProcessGroupGloo::Options::create(timeout);
  options->devices.push_back(gloo_device(launch));
  return with_backend(
      own, members, torch::kCPU, BackendType::GLOO,
      c10::make_intrusive<c10d::ProcessGroupGloo>(own, members.rank, members.size, options));
}

Group nccl_group(const StorePtr& store, const Members& members, milliseconds timeout) {
  const StorePtr own = c10::make_intrusive<c10d::PrefixStore>("nccl" + members.name, store);
  return with_backend(own, members, torch::kCUDA, BackendType::NCCL,
                      make_nccl(own, members.rank, members.size, timeout));
}

}  // namespace

int shard_size(const DistConfig& config, int world_size) {
  return config.shard_group == 0 ? world_size : static_cast<int>(config.shard_group);
}

ProcessGroups make_process_groups(const StorePtr& store, const Launch& launch,
                                  const DistConfig& config, torch::Device device) {
  if (config.backend == Backend::kNccl && !device.is_cuda()) {
    throw UsageError(
        "[dist] dist.backend: expected gloo for a model on the CPU, got nccl; set train.device "
        "cuda, or dist.backend auto");
  }
  const milliseconds timeout = std::chrono::seconds(config.timeout_s);
  const bool nccl = device.is_cuda() && config.backend != Backend::kGloo;
  // Gloo takes tensors of a GPU through the CPU.
  const auto gloo = [&](const Members& members) {
    Group group = make_gloo(store, launch, members, timeout);
    if (device.is_cuda()) {
      group->setBackend(torch::kCUDA, BackendType::GLOO, group->getBackend(torch::kCPU));
    }
    return group;
  };
  const auto make = [&](const Members& members) {
    return nccl ? nccl_group(store, members, timeout) : gloo(members);
  };
  const Members all{"", launch.rank, launch.world_size};
  ProcessGroups groups;
  groups.backend = nccl ? "nccl" : "gloo";
  groups.control = gloo(all);
  groups.tensors = nccl ? make(all) : groups.control;
  if (config.shard == Sharding::kNone) return groups;
  const int size = shard_size(config, launch.world_size);
  const int shard = launch.rank / size, place = launch.rank % size;
  const int num_shards = launch.world_size / size;
  groups.shard =
      num_shards == 1 ? groups.tensors : make({"/shard/" + std::to_string(shard), place, size});
  if (num_shards > 1) {
    groups.replicas = make({"/replicas/" + std::to_string(place), shard, num_shards});
  }
  return groups;
}

}  // namespace crnet
