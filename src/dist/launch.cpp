#include "crnet/dist/launch.h"

#include <array>
#include <cstdlib>

#include "crnet/core/format.h"
#include "dist/launch_variables.h"
#include "dist/launchers.h"
#include "dist/rendezvous.h"
#include "dist/slurm.h"

namespace crnet {
namespace {

/// The launcher that the user has named.
std::optional<Launcher> chosen_launcher(const LaunchVariables& variables) {
  struct Choice {
    const char* word;
    Launcher launcher;
  };
  constexpr std::array<Choice, 6> kChoices = {{{"none", Launcher::kNone},
                                               {"crnet", Launcher::kCrnet},
                                               {"torchrun", Launcher::kTorchrun},
                                               {"openmpi", Launcher::kOpenMpi},
                                               {"hydra", Launcher::kHydra},
                                               {"slurm", Launcher::kSlurm}}};
  const auto word = variables.find("CRNET_LAUNCHER");
  if (!word) return std::nullopt;
  for (const auto& choice : kChoices) {
    if (*word == choice.word) return choice.launcher;
  }
  variables.fail(
      format("expected CRNET_LAUNCHER to be none, crnet, torchrun, openmpi, hydra or slurm, got %s",
             shell_word(*word).c_str()));
}

/// Whether a process of `outer` may have started `inner`.
bool can_stand_in(const LaunchVariables& variables, const Launch& inner, const Launch& outer) {
  if (outer.world_size == 1) return true;
  // Each process of the outer one is a torchrun. With --rdzv-backend=c10d they agree on GROUP_RANKs
  // of their own, so only the number has to be right.
  if (inner.launcher == Launcher::kTorchrun) {
    return variables.is("GROUP_WORLD_SIZE", outer.world_size);
  }
  if (inner.rank == outer.rank && inner.world_size == outer.world_size) return true;
  // mpirun and mpiexec start one daemon on each node by srun, and these start the processes.
  const bool is_mpi = inner.launcher == Launcher::kOpenMpi || inner.launcher == Launcher::kHydra;
  return is_mpi && outer.launcher == Launcher::kSlurm &&
         variables.is("SLURM_STEP_NUM_NODES", outer.world_size);
}

void check_nesting(const LaunchVariables& variables, const Launch& inner, const Launch& outer) {
  if (can_stand_in(variables, inner, outer)) return;
  variables.fail(
      format("expected one launcher, or two that agree, got process %d of %d by %s and process %d "
             "of %d by %s; start with one of them, or choose by CRNET_LAUNCHER",
             inner.rank, inner.world_size, launcher_name(inner.launcher), outer.rank,
             outer.world_size, launcher_name(outer.launcher)));
}

/// PMIx gives a rank but no size. srun --mpi=pmix, which sets PMIX_RANK too, names its jobs
/// slurm.pmix.<job>.<step>; mpirun of Open MPI adds variables of its own.
void refuse_pmix_alone(const LaunchVariables& variables, const Launch& innermost) {
  const bool has_others =
      innermost.launcher != Launcher::kNone && innermost.launcher != Launcher::kSlurm;
  const auto name = variables.find("PMIX_NAMESPACE").value_or("");
  if (!variables.has("PMIX_RANK") || has_others || name.starts_with("slurm.pmix.")) return;
  variables.fail(
      "expected the number of processes beside PMIX_RANK, got none, as PMIx does not pass it on; "
      "start with mpirun of Open MPI, or set RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE in "
      "each process");
}

/// The innermost launcher's launch, without a rendezvous.
Launch find_innermost(const LaunchVariables& variables) {
  std::optional<Launch> innermost;
  for (const Launcher launcher :
       {Launcher::kSlurm, Launcher::kHydra, Launcher::kOpenMpi, launcher_of_rank(variables)}) {
    auto inner = find_rank(variables, launcher, innermost);
    if (!inner) continue;
    if (innermost) check_nesting(variables, *inner, *innermost);
    read_local_rank(variables, *inner);
    innermost = inner;
  }
  refuse_pmix_alone(variables, innermost.value_or(Launch{}));
  if (!innermost) refuse_slurm_without_step(variables);
  return innermost.value_or(Launch{});
}

}  // namespace

std::optional<std::string> process_environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::nullopt : std::optional<std::string>(value);
}

Launch detect_launch(const EnvironmentLookup& environment) {
  const LaunchVariables variables(environment);
  const auto chosen = chosen_launcher(variables);
  if (chosen == Launcher::kNone) return {};
  Launch launch = chosen ? read_rank(variables, *chosen) : find_innermost(variables);
  if (chosen) read_local_rank(variables, launch);
  if (launch.launcher != Launcher::kNone) set_rendezvous(variables, launch);
  return launch;
}

std::string describe(const Launch& launch) {
  if (launch.launcher == Launcher::kNone) return "one process";
  return format("%s: process %d of %d, local %d of %d, rendezvous %s:%d",
                launcher_name(launch.launcher), launch.rank, launch.world_size, launch.local_rank,
                launch.local_world_size, launch.rendezvous_host.c_str(), launch.rendezvous_port);
}

}  // namespace crnet
