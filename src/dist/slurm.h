// A process's place in a job of Slurm: in a step that srun started, or beside one.
#pragma once

#include "crnet/dist/launch.h"
#include "dist/launch_variables.h"

namespace crnet {

/// Whether srun started this process, or what started this process.
bool is_slurm_step(const LaunchVariables& variables);

/// The place in the step, without a rendezvous. Throws UsageError where a variable is missing or
/// wrong.
Launch read_slurm_step(const LaunchVariables& variables);

/// The host of process 0. Throws UsageError where the variables do not tell.
std::string slurm_rendezvous_host(const LaunchVariables& variables);

/// Throws UsageError where the job asks for several processes, or may, though this one is in no
/// step: a batch script, or a shell of salloc.
void refuse_slurm_without_step(const LaunchVariables& variables);

}  // namespace crnet
