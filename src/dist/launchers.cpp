#include "dist/launchers.h"

#include <array>

#include "crnet/core/format.h"
#include "dist/slurm.h"

namespace crnet {
namespace {

/// The variables of one launcher.
struct LauncherNames {
  PlaceNames place;
  const char* sign;  ///< Another by which a process knows it.
  const char* job;   ///< An id that all processes of a job share.
};

// torchrun's documentation; seen with PyTorch 2.11. `crnet launch` sets the same four.
constexpr PlaceNames kTorchNames{"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"};
constexpr LauncherNames kTorchrun{kTorchNames, "RANK", "TORCHELASTIC_RUN_ID"};
constexpr LauncherNames kCrnet{kTorchNames, "CRNET_LAUNCH", "CRNET_LAUNCH"};

// Documented by Open MPI as set for every process, MPI program or not: in version 4 by ORTE, in 5
// by PMIx (pmdl/ompi). Seen with 4.1.4, on two hosts too.
constexpr LauncherNames kOpenMpi{{"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE",
                                  "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"},
                                 "OMPI_COMM_WORLD_LOCAL_RANK",
                                 "PMIX_NAMESPACE"};

// Hydra's proxy (pmip_cb.c), which with -pmi-port sets PMI_ID instead of the first two. Seen with
// MPICH 4.0.2, on two hosts too. It sets no id of the job, but Slurm does if the job is one of
// Slurm.
constexpr LauncherNames kHydra{
    {"PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"}, "PMI_ID", "SLURM_JOB_ID"};

const LauncherNames& names_of(Launcher launcher) {
  if (launcher == Launcher::kOpenMpi) return kOpenMpi;
  if (launcher == Launcher::kHydra) return kHydra;
  return launcher == Launcher::kCrnet ? kCrnet : kTorchrun;
}

// "unset RANK and LOCAL_RANK, or ", of what is set.
std::string how_to_unset(const LaunchVariables& variables, const PlaceNames& names) {
  std::string set;
  for (const char* name : {names.rank, names.size, names.local_rank, names.local_size}) {
    if (variables.has(name)) set += (set.empty() ? "unset " : " and ") + std::string(name);
  }
  return set.empty() ? "" : set + ", or ";
}

int read_number(const LaunchVariables& variables, const PlaceNames& names, const char* name) {
  return variables.number(
      name, format("each process needs %s, %s, %s and %s, or none of them; to train with one "
                   "process %sset CRNET_LAUNCHER=none",
                   names.rank, names.size, names.local_rank, names.local_size,
                   how_to_unset(variables, names).c_str()));
}

/// Whether the variables give no local rank and agree with `outer` in the rest: srun itself may set
/// PMI_RANK and PMI_SIZE, and scripts for srun export WORLD_SIZE for other programs.
bool repeats(const LaunchVariables& variables, const PlaceNames& names, const Launch& outer) {
  const auto agrees = [&](const char* name, int value) {
    return !variables.has(name) || variables.is(name, value);
  };
  return !variables.has(names.local_rank) && agrees(names.rank, outer.rank) &&
         agrees(names.size, outer.world_size);
}

}  // namespace

const char* launcher_name(Launcher launcher) {
  constexpr std::array kNames = {"no launcher", "RANK and WORLD_SIZE", "crnet launch",
                                 "torchrun",    "mpirun (Open MPI)",   "mpiexec (Hydra)",
                                 "srun (Slurm)"};
  return kNames.at(static_cast<size_t>(launcher));
}

Launcher launcher_of_rank(const LaunchVariables& variables) {
  if (variables.has("CRNET_LAUNCH")) return Launcher::kCrnet;
  return variables.has("TORCHELASTIC_RUN_ID") ? Launcher::kTorchrun : Launcher::kByHand;
}

Launch read_rank(const LaunchVariables& variables, Launcher launcher) {
  if (launcher == Launcher::kSlurm) return read_slurm_step(variables);
  const LauncherNames& names = names_of(launcher);
  Launch launch;
  launch.launcher = launcher;
  launch.rank = read_number(variables, names.place, names.place.rank);
  launch.world_size = read_number(variables, names.place, names.place.size);
  launch.job = variables.find(names.job).value_or("");
  launch.store_is_served =
      launcher == Launcher::kTorchrun && variables.find("TORCHELASTIC_USE_AGENT_STORE") == "True";
  return launch;
}

void read_local_rank(const LaunchVariables& variables, Launch& launch) {
  if (launch.launcher == Launcher::kSlurm) return;  // has it from read_slurm_step
  const PlaceNames& names = names_of(launch.launcher).place;
  if (launch.world_size != 1 || variables.has(names.local_rank)) {
    launch.local_rank = read_number(variables, names, names.local_rank);
    launch.local_world_size = read_number(variables, names, names.local_size);
  }
  check_place(variables, names, launch);
}

std::optional<Launch> find_rank(const LaunchVariables& variables, Launcher launcher,
                                const std::optional<Launch>& outer) {
  if (launcher == Launcher::kSlurm) {
    if (!is_slurm_step(variables)) return std::nullopt;
    return read_slurm_step(variables);
  }
  const auto& [place, sign, job] = names_of(launcher);
  if (!variables.has(place.rank) && !variables.has(place.size) && !variables.has(sign)) {
    return std::nullopt;
  }
  if (outer && repeats(variables, place, *outer)) return std::nullopt;
  return read_rank(variables, launcher);
}

}  // namespace crnet
