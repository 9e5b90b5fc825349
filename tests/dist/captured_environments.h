// Environments of processes: what launchers were seen to set, on hosts node01 and node02: all that
// says who and where a process is. Variables of tuning, of paths and of sockets are left out.
#pragma once

#include <map>
#include <string>

namespace crnet {

using Variables = std::map<std::string, std::string>;

/// `variables` with those of `more` added or replaced; "" counts as not set.
inline Variables with(Variables variables, const Variables& more) {
  for (const auto& [name, value] : more) variables[name] = value;
  return variables;
}

/// What a user may export, without MASTER_ADDR and MASTER_PORT.
inline Variables by_hand() {
  return {{"RANK", "1"}, {"WORLD_SIZE", "2"}, {"LOCAL_RANK", "1"}, {"LOCAL_WORLD_SIZE", "2"}};
}

/// PyTorch 2.11: torchrun --nproc-per-node 2 --standalone.
inline Variables torchrun() {
  return {{"RANK", "1"},
          {"WORLD_SIZE", "2"},
          {"LOCAL_RANK", "1"},
          {"LOCAL_WORLD_SIZE", "2"},
          {"GROUP_RANK", "0"},
          {"GROUP_WORLD_SIZE", "1"},
          {"ROLE_RANK", "1"},
          {"ROLE_NAME", "default"},
          {"ROLE_WORLD_SIZE", "2"},
          {"MASTER_ADDR", "localhost"},
          {"MASTER_PORT", "34697"},
          {"TORCHELASTIC_RESTART_COUNT", "0"},
          {"TORCHELASTIC_MAX_RESTARTS", "0"},
          {"TORCHELASTIC_RUN_ID", "d935d407-e1a0-4cf1-9031-3fabb267b8e7"},
          {"TORCHELASTIC_USE_AGENT_STORE", "True"}};
}

/// Open MPI 4.1.4: mpirun -np 2.
inline Variables mpirun() {
  return {{"OMPI_APP_CTX_NUM_PROCS", "2"},
          {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
          {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"},
          {"OMPI_COMM_WORLD_NODE_RANK", "1"},
          {"OMPI_COMM_WORLD_RANK", "1"},
          {"OMPI_COMM_WORLD_SIZE", "2"},
          {"OMPI_MCA_ess_base_jobid", "1620180993"},
          {"OMPI_MCA_ess_base_vpid", "1"},
          {"OMPI_MCA_orte_num_nodes", "1"},
          {"OMPI_UNIVERSE_SIZE", "2"},
          {"PMIX_NAMESPACE", "1620180993"},
          {"PMIX_RANK", "1"}};
}

/// Slurm 22.05: srun -N2 -n5, process 4, which is the one on the second host.
inline Variables srun() {
  return {{"SLURM_JOB_ID", "7"},
          {"SLURM_JOB_NODELIST", "node[01-02]"},
          {"SLURM_JOB_NUM_NODES", "2"},
          {"SLURM_LOCALID", "0"},
          {"SLURM_NNODES", "2"},
          {"SLURM_NODEID", "1"},
          {"SLURM_NTASKS", "5"},
          {"SLURM_PROCID", "4"},
          {"SLURM_STEP_ID", "0"},
          {"SLURM_STEP_NODELIST", "node[01-02]"},
          {"SLURM_STEP_NUM_NODES", "2"},
          {"SLURM_STEP_NUM_TASKS", "5"},
          {"SLURM_STEP_TASKS_PER_NODE", "4,1"},
          {"SLURM_TASKS_PER_NODE", "4,1"}};
}

/// The same version: the script of sbatch -N2 -n5.
inline Variables sbatch() {
  return {{"SLURM_JOB_ID", "7"},  {"SLURM_JOB_NODELIST", "node[01-02]"},
          {"SLURM_GTIDS", "0"},   {"SLURM_JOB_NUM_NODES", "2"},
          {"SLURM_LOCALID", "0"}, {"SLURM_NNODES", "2"},
          {"SLURM_NODEID", "0"},  {"SLURM_NTASKS", "5"},
          {"SLURM_PROCID", "0"},  {"SLURM_TASKS_PER_NODE", "4,1"},
          {"SLURM_NPROCS", "5"}};
}

/// The same: the shell of salloc -N2 -n4, where it is itself an interactive step.
inline Variables interactive_step() {
  return with(sbatch(), {{"SLURM_NTASKS", "4"},
                         {"SLURM_TASKS_PER_NODE", "3,1"},
                         {"SLURM_STEP_ID", "4294967290"},
                         {"SLURM_STEP_NODELIST", "node01"},
                         {"SLURM_STEP_NUM_NODES", "1"},
                         {"SLURM_STEP_NUM_TASKS", "1"},
                         {"SLURM_STEP_TASKS_PER_NODE", "1"}});
}

/// The daemon that mpirun (Open MPI 4.1.4) or mpiexec (MPICH 4.0.2) starts by srun on the second of
/// two nodes of salloc -N2 -n4; its processes inherit this.
inline Variables daemon_of_mpi() {
  return with(srun(), {{"SLURM_NTASKS", "2"},
                       {"SLURM_PROCID", "1"},
                       {"SLURM_STEP_NUM_TASKS", "2"},
                       {"SLURM_STEP_TASKS_PER_NODE", "1(x2)"},
                       {"SLURM_TASKS_PER_NODE", "1(x2)"}});
}

/// MPICH 4.0.2: mpiexec -n 4 -ppn 2, process 3 on the second host.
inline Variables mpiexec() {
  return {{"MPI_LOCALNRANKS", "2"}, {"MPI_LOCALRANKID", "1"}, {"PMI_FD", "6"},
          {"PMI_RANK", "3"},        {"PMI_SIZE", "4"},        {"HYDI_CONTROL_FD", "7"}};
}

}  // namespace crnet
