#include "dist/slurm.h"

#include <cstdlib>

#include "crnet/core/format.h"
#include "dist/host_list.h"

// What srun, sbatch and salloc set, by their manuals and as seen with Slurm 22.05 on three nodes:
//
//                           srun's step   batch script   salloc's shell   interactive step
//   SLURM_JOB_ID            yes           yes            yes              yes
//   SLURM_STEP_ID           from 0        no             no               4294967290
//   SLURM_PROCID, _LOCALID  yes           0              no               0
//   SLURM_NTASKS            the step's    as asked for, else not set
//   SLURM_TASKS_PER_NODE    the step's    the job's; all cores of a node with --exclusive
//   SLURM_STEP_…            yes           no             no               of one task
//
// A job submitted from within a step inherits that step's SLURM_STEP_… variables.
namespace crnet {
namespace {

constexpr PlaceNames kNames{"SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID",
                            "SLURM_STEP_TASKS_PER_NODE"};
constexpr const char* kStartBySrun =
    "start crnet with srun, or for one process by intent with CRNET_LAUNCHER=none";

/// slurm.h: from SLURM_MAX_NORMAL_STEP_ID on, ids are those of batch scripts, of interactive steps
/// and of other things that srun did not start.
bool is_normal_step(const std::string& id) {
  char* end = nullptr;
  const long long number = std::strtoll(id.c_str(), &end, 10);
  return *end == '\0' && number >= 0 && number < 0xfffffff0LL;
}

/// srun sets both to the same. They differ in a job that inherited the first, and under `srun
/// --preserve-env`.
bool are_tasks_of_step(const LaunchVariables& variables) {
  const auto tasks = variables.find("SLURM_TASKS_PER_NODE");
  return !tasks || tasks == variables.find(kNames.local_size);
}

bool has_normal_step(const LaunchVariables& variables) {
  const auto id = variables.find("SLURM_STEP_ID");
  return id && is_normal_step(*id);
}

std::string assignment(const LaunchVariables& variables, const char* name) {
  return format("%s=%s", name, variables.find(name).value_or("").c_str());
}

int tasks_here(const LaunchVariables& variables) {
  const auto tasks = variables.find(kNames.local_size).value_or("");
  const auto count = tasks_on_host(tasks, variables.number("SLURM_NODEID", kStartBySrun));
  if (!count) {
    variables.fail(format("expected %s to give the tasks of %s, such as 2(x3),1, got %s; %s",
                          kNames.local_size, assignment(variables, "SLURM_NODEID").c_str(),
                          shell_word(tasks).c_str(), kStartBySrun));
  }
  return *count;
}

}  // namespace

bool is_slurm_step(const LaunchVariables& variables) {
  return has_normal_step(variables) && are_tasks_of_step(variables);
}

Launch read_slurm_step(const LaunchVariables& variables) {
  if (!has_normal_step(variables)) {
    variables.fail(format("expected SLURM_STEP_ID of a step of srun, got %s; %s",
                          variables.find("SLURM_STEP_ID").value_or("nothing").c_str(),
                          kStartBySrun));
  }
  const bool knows_step = variables.has(kNames.size);
  Launch launch;
  launch.launcher = Launcher::kSlurm;
  launch.rank = variables.number(kNames.rank, kStartBySrun);
  launch.world_size = variables.number(knows_step ? kNames.size : "SLURM_NTASKS", kStartBySrun);
  launch.local_rank = variables.number(kNames.local_rank, kStartBySrun);
  launch.local_world_size = tasks_here(variables);
  check_place(variables, kNames, launch);
  launch.job = format("%s.%s", variables.find("SLURM_JOB_ID").value_or("").c_str(),
                      variables.find("SLURM_STEP_ID")->c_str());
  return launch;
}

std::string slurm_rendezvous_host(const LaunchVariables& variables) {
  const auto distribution = variables.find("SLURM_DISTRIBUTION").value_or("");
  if (distribution.starts_with("arbitrary")) {
    variables.fail(
        "expected MASTER_ADDR, got SLURM_DISTRIBUTION=arbitrary, by which process 0 may be on any "
        "host; export MASTER_ADDR=<host of process 0> before srun");
  }
  const auto hosts = variables.find("SLURM_STEP_NODELIST").value_or("");
  const auto host = first_host(hosts);
  if (!host) {
    variables.fail(
        format("expected SLURM_STEP_NODELIST to list hosts, such as node[01-04], got "
               "%s; export MASTER_ADDR=<host of process 0> before srun",
               shell_word(hosts).c_str()));
  }
  return *host;
}

void refuse_slurm_without_step(const LaunchVariables& variables) {
  if (has_normal_step(variables)) {
    variables.fail(
        format("expected %s in a step of srun to be %s, got two that differ, as in a job "
               "submitted from within a step, or by srun --preserve-env; %s",
               assignment(variables, "SLURM_TASKS_PER_NODE").c_str(),
               assignment(variables, kNames.local_size).c_str(), kStartBySrun));
  }
  if (!variables.has("SLURM_JOB_ID")) {
    if (!variables.has(kNames.rank)) return;
    variables.fail(
        format("expected SLURM_JOB_ID and SLURM_STEP_ID beside %s, got no job; pass all "
               "variables of Slurm on, or set CRNET_LAUNCHER=none for one process",
               assignment(variables, kNames.rank).c_str()));
  }
  // Without --ntasks Slurm runs one on each node.
  const char* tasks = variables.has("SLURM_NTASKS") ? "SLURM_NTASKS" : "SLURM_JOB_NUM_NODES";
  if (!variables.has(tasks) || variables.is(tasks, 1)) return;
  variables.fail(
      format("expected a step of srun, as the job has %s, got a batch script or a "
             "shell, which is one process; %s",
             assignment(variables, tasks).c_str(), kStartBySrun));
}

}  // namespace crnet
