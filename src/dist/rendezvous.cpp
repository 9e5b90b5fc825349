#include "dist/rendezvous.h"

#include <cstdint>

#include "crnet/core/format.h"
#include "dist/slurm.h"

namespace crnet {
namespace {

constexpr int kDefaultPort = 29500;  // PyTorch's
constexpr int kFirstPort = 20000;
constexpr int kNumPorts = 12000;

/// FNV-1a: the same in every process, whatever its host and its standard library.
uint64_t hash(const std::string& text) {
  uint64_t value = 0xcbf29ce484222325;
  for (const char c : text) value = (value ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return value;
}

int default_port(const std::string& job) {
  if (job.empty()) return kDefaultPort;
  return kFirstPort + static_cast<int>(hash(job) % kNumPorts);
}

const char* host_remedy(Launcher launcher) {
  if (launcher == Launcher::kOpenMpi) return "start with mpirun -x MASTER_ADDR=<host of process 0>";
  if (launcher == Launcher::kHydra) {
    return "start with mpiexec -genv MASTER_ADDR <host of process 0>";
  }
  return "set MASTER_ADDR=<host of process 0> in each process";
}

std::string default_host(const LaunchVariables& variables, const Launch& launch) {
  if (launch.local_world_size == launch.world_size) return "127.0.0.1";
  if (launch.launcher == Launcher::kSlurm) return slurm_rendezvous_host(variables);
  variables.fail(
      format("expected MASTER_ADDR, as %d of %d processes are on other hosts, got "
             "nothing; %s",
             launch.world_size - launch.local_world_size, launch.world_size,
             host_remedy(launch.launcher)));
}

int read_port(const LaunchVariables& variables) {
  constexpr const char* kRemedy = "set MASTER_PORT to a free port of process 0's host";
  const int port = variables.number("MASTER_PORT", kRemedy);
  if (port < 1 || port > 65535) {
    variables.fail(format("expected MASTER_PORT from 1 to 65535, got %d; %s", port, kRemedy));
  }
  return port;
}

}  // namespace

void set_rendezvous(const LaunchVariables& variables, Launch& launch) {
  const auto host = variables.find("MASTER_ADDR");
  launch.rendezvous_host = host ? *host : default_host(variables, launch);
  launch.rendezvous_port =
      variables.has("MASTER_PORT") ? read_port(variables) : default_port(launch.job);
}

}  // namespace crnet
