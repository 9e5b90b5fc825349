// LibTorch's headers of backends are empty without these.
#define USE_C10D_GLOO
#ifdef CRNET_NCCL
#define USE_C10D_NCCL
#endif

#include "dist/process_group.h"

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#ifdef CRNET_NCCL
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#endif

#include <cstdlib>

#include "crnet/core/error.h"

namespace crnet {
namespace {

using Group = c10::intrusive_ptr<c10d::ProcessGroup>;
using BackendType = c10d::ProcessGroup::BackendType;
using std::chrono::milliseconds;

StorePtr part_of(const StorePtr& store, const char* prefix) {
  return c10::make_intrusive<c10d::PrefixStore>(prefix, store);
}

Group with_backend(const StorePtr& store, const Launch& launch, torch::DeviceType device,
                   BackendType type, const c10::intrusive_ptr<c10d::Backend>& backend) {
  auto group = c10::make_intrusive<c10d::ProcessGroup>(store, launch.rank, launch.world_size);
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

Group make_gloo(const StorePtr& store, const Launch& launch, milliseconds timeout) {
  const StorePtr own = part_of(store, "gloo");
  auto options = c10d::ProcessGroupGloo::Options::create(timeout);
  options->devices.push_back(gloo_device(launch));
  return with_backend(
      own, launch, torch::kCPU, BackendType::GLOO,
      c10::make_intrusive<c10d::ProcessGroupGloo>(own, launch.rank, launch.world_size, options));
}

#ifdef CRNET_NCCL
Group make_nccl(const StorePtr& store, const Launch& launch, milliseconds timeout) {
  const StorePtr own = part_of(store, "nccl");
  auto options = c10d::ProcessGroupNCCL::Options::create();
  options->timeout = timeout;
  return with_backend(
      own, launch, torch::kCUDA, BackendType::NCCL,
      c10::make_intrusive<c10d::ProcessGroupNCCL>(own, launch.rank, launch.world_size, options));
}
#else
Group make_nccl(const StorePtr&, const Launch&, milliseconds) {
  throw UsageError(
      "[dist] dist.backend: expected gloo, since crnet was built without NCCL, got nccl; build it "
      "where LibTorch has CUDA and nccl.h is installed");
}
#endif

}  // namespace

ProcessGroups make_process_groups(const StorePtr& store, const Launch& launch,
                                  const DistConfig& config, torch::Device device) {
  if (config.backend == Backend::kNccl && !device.is_cuda()) {
    throw UsageError(
        "[dist] dist.backend: expected gloo for a model on the CPU, got nccl; set train.device "
        "cuda, or dist.backend auto");
  }
  const milliseconds timeout = std::chrono::seconds(config.timeout_s);
  ProcessGroups groups;
  groups.control = make_gloo(store, launch, timeout);
  const bool nccl = device.is_cuda() && config.backend != Backend::kGloo;
  groups.backend = nccl ? "nccl" : "gloo";
  groups.tensors = nccl ? make_nccl(store, launch, timeout) : groups.control;
  if (!nccl && device.is_cuda()) {  // Gloo takes tensors of a GPU through the CPU
    groups.control->setBackend(torch::kCUDA, BackendType::GLOO,
                               groups.control->getBackend(torch::kCPU));
  }
  return groups;
}

}  // namespace crnet
