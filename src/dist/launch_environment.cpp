#include "dist/launch_environment.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <random>
#include <string_view>
#include <thread>

#include "crnet/core/format.h"

namespace crnet {
namespace {

// Names, or with _ at the end prefixes, by which launchers tell a process its place. A batch script
// under Slurm is itself "process 0 of 1", and TORCHELASTIC_USE_AGENT_STORE sends processes to the
// store of an agent that is not there: what is left of another launcher would contradict.
constexpr std::array kLauncherVariables = std::to_array<std::string_view>({"RANK",
                                                                           "WORLD_SIZE",
                                                                           "LOCAL_RANK",
                                                                           "LOCAL_WORLD_SIZE",
                                                                           "MASTER_ADDR",
                                                                           "MASTER_PORT",
                                                                           "CRNET_LAUNCH",
                                                                           "CRNET_LAUNCHER",
                                                                           "NODE_RANK",
                                                                           "GROUP_RANK",
                                                                           "GROUP_WORLD_SIZE",
                                                                           "ROLE_RANK",
                                                                           "ROLE_NAME",
                                                                           "ROLE_WORLD_SIZE",
                                                                           "TORCHELASTIC_",
                                                                           "OMPI_",
                                                                           "PMIX_",
                                                                           "PMI_",
                                                                           "MPI_LOCALRANKID",
                                                                           "MPI_LOCALNRANKS",
                                                                           "SLURM_"});

bool is_of_a_launcher(std::string_view entry) {
  const std::string_view name = entry.substr(0, entry.find('='));
  return std::any_of(kLauncherVariables.begin(), kLauncherVariables.end(), [&](auto known) {
    return known.ends_with('_') ? name.starts_with(known) : name == known;
  });
}

int num_cores() {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof(allowed), &allowed) == 0) return CPU_COUNT(&allowed);
  return static_cast<int>(std::thread::hardware_concurrency());  // more than the set can hold
}

}  // namespace

std::string make_job_id() {
  std::random_device random;
  return format("%08x%08x", random(), random());
}

std::vector<std::string> launch_environment(const Launch& launch) {
  std::vector<std::string> entries;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    if (!is_of_a_launcher(*entry)) entries.emplace_back(*entry);
  }
  entries.push_back(format("RANK=%d", launch.rank));
  entries.push_back(format("WORLD_SIZE=%d", launch.world_size));
  entries.push_back(format("LOCAL_RANK=%d", launch.local_rank));
  entries.push_back(format("LOCAL_WORLD_SIZE=%d", launch.local_world_size));
  entries.push_back("MASTER_ADDR=" + launch.rendezvous_host);
  entries.push_back(format("MASTER_PORT=%d", launch.rendezvous_port));
  entries.push_back("CRNET_LAUNCH=" + launch.job);
  if (std::getenv("OMP_NUM_THREADS") == nullptr) {
    const int share = std::max(1, num_cores() / launch.local_world_size);
    entries.push_back(format("OMP_NUM_THREADS=%d", share));
  }
  return entries;
}

}  // namespace crnet
