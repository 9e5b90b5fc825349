// Who started this process, and where it stands among those that train together.
#pragma once

#include <functional>
#include <optional>
#include <string>

namespace crnet {

enum class Launcher {
  kNone,      ///< Nobody: one process by itself.
  kByHand,    ///< The user, by RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE.
  kCrnet,     ///< `crnet launch`.
  kTorchrun,  ///< PyTorch's torchrun.
  kOpenMpi,   ///< mpirun of Open MPI, 4 and 5.
  kHydra,     ///< mpiexec of MPICH and Intel MPI.
  kSlurm,     ///< srun of Slurm.
};

/// A process's place in its group, and where the group meets.
struct Launch {
  Launcher launcher = Launcher::kNone;
  int rank = 0;              ///< From 0; below world_size.
  int world_size = 1;        ///< Processes in all. A launcher may well start just one.
  int local_rank = 0;        ///< From 0 on each host; below local_world_size.
  int local_world_size = 1;  ///< Processes on this host.

  /// Where c10d's TCPStore is served: by process 0, or where store_is_served, by torchrun's agent,
  /// so that process 0 connects like the others. Empty without a launcher.
  std::string rendezvous_host;
  int rendezvous_port = 0;
  bool store_is_served = false;

  /// Tells this job from others that might meet on the same port: the launcher's id of the job, the
  /// same in all its processes; empty where the launcher gives none.
  std::string job;

  [[nodiscard]] bool is_distributed() const { return world_size > 1; }
};

/// Looks up a variable; none: it is not set. An empty one counts as not set.
using EnvironmentLookup = std::function<std::optional<std::string>(const char* name)>;

/// The variables of this process.
std::optional<std::string> process_environment(const char* name);

/// Reads what the launcher put into the environment.
///
/// CRNET_LAUNCHER=none, crnet, torchrun, openmpi, hydra or slurm names the launcher. Without it,
/// the innermost of several wins (mpirun in a job of Slurm, torchrun in one of mpirun), where the
/// outer one started one process, or a torchrun as each of its processes, or a daemon of mpirun on
/// each host, or where both give the process the same place.
///
/// The processes meet at MASTER_ADDR and MASTER_PORT. Without the first, at 127.0.0.1 where one
/// host has them all, else under Slurm on the first host of the step. Without the second, at a port
/// from 20000 to 31999 that follows from the job (free of Linux's ephemeral ports, which begin at
/// 32768), or at 29500 where the job has no id.
///
/// Throws UsageError, one line that names variables, values, remedy, host and rank, where the
/// variables are incomplete, out of range, or contradict each other, and where a group was meant
/// but this process cannot know its place in it (a batch script of Slurm that forgot srun).
[[nodiscard]] Launch detect_launch(const EnvironmentLookup& environment = process_environment);

/// One clause for the start of a run: "mpirun (Open MPI): process 2 of 8, local 2 of 4, rendezvous
/// node01:29500". Processes count from 0.
[[nodiscard]] std::string describe(const Launch& launch);

}  // namespace crnet
