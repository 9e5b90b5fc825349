#include <gtest/gtest.h>

#include "launch_cases.h"

namespace crnet {
namespace {

TEST(LaunchErrors, SayWhichProcessSpeaks) {
  try {
    (void)launch_in(with(mpirun(), {{"OMPI_COMM_WORLD_SIZE", ""}}));
    FAIL() << "expected an error";
  } catch (const UsageError& error) {
    const std::string text = error.what();
    EXPECT_EQ(text.substr(0, text.rfind(" (on ")),
              "[dist] expected OMPI_COMM_WORLD_SIZE, got nothing; each process needs "
              "OMPI_COMM_WORLD_RANK, OMPI_COMM_WORLD_SIZE, OMPI_COMM_WORLD_LOCAL_RANK and "
              "OMPI_COMM_WORLD_LOCAL_SIZE, or none of them; to train with one process unset "
              "OMPI_COMM_WORLD_RANK and OMPI_COMM_WORLD_LOCAL_RANK and OMPI_COMM_WORLD_LOCAL_SIZE, "
              "or set CRNET_LAUNCHER=none");
    EXPECT_TRUE(text.ends_with(", OMPI_COMM_WORLD_RANK=1)")) << text;
    EXPECT_EQ(text.find('\n'), std::string::npos);
  }
}

TEST(LaunchErrors, AHalfSetEnvironmentNamesWhatIsMissing) {
  expect_refusal({{"RANK", "0"}}, "expected WORLD_SIZE, got nothing; each process needs RANK,");
  expect_refusal({{"WORLD_SIZE", "4"}}, "expected RANK, got nothing");
  expect_refusal({{"CRNET_LAUNCH", "id"}}, "expected RANK, got nothing");
  expect_refusal({{"RANK", "0"}, {"WORLD_SIZE", "2"}}, "expected LOCAL_RANK, got nothing");
  expect_refusal(with(by_hand(), {{"LOCAL_WORLD_SIZE", ""}}), "expected LOCAL_WORLD_SIZE, got not");
  expect_refusal(with(mpirun(), {{"OMPI_COMM_WORLD_RANK", ""}, {"OMPI_COMM_WORLD_SIZE", ""}}),
                 "expected OMPI_COMM_WORLD_RANK, got nothing");
  expect_refusal(with(mpiexec(), {{"MPI_LOCALRANKID", ""}}), "expected MPI_LOCALRANKID, got");
  // mpiexec -pmi-port
  expect_refusal({{"PMI_ID", "0"}, {"PMI_PORT", "node01:45571"}, {"MPI_LOCALRANKID", "0"}},
                 "expected PMI_RANK, got nothing");
  for (const char* name : {"SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"}) {
    expect_refusal(with(srun(), {{name, ""}}),
                   "expected " + std::string(name) + ", got nothing; start crnet with srun");
  }
  expect_refusal(with(srun(), {{"SLURM_STEP_TASKS_PER_NODE", ""}, {"SLURM_TASKS_PER_NODE", ""}}),
                 "expected SLURM_STEP_TASKS_PER_NODE to give the tasks of SLURM_NODEID=1");
}

TEST(LaunchErrors, AHalfSetEnvironmentSaysHowToTrainWithoutIt) {
  expect_refusal({{"RANK", "0"}},
                 "or none of them; to train with one process unset RANK, or set "
                 "CRNET_LAUNCHER=none");
  expect_refusal({{"RANK", "0"}, {"WORLD_SIZE", "2"}},
                 "to train with one process unset RANK and WORLD_SIZE, or set CRNET_LAUNCHER=none");
  expect_refusal({{"CRNET_LAUNCH", "id"}}, "to train with one process set CRNET_LAUNCHER=none");
}

TEST(LaunchErrors, AValueOutOfRangeIsNamedWithItsLimit) {
  expect_refusal(with(by_hand(), {{"WORLD_SIZE", "four"}}),
                 "expected WORLD_SIZE to be a whole number, got four;");
  expect_refusal(with(by_hand(), {{"RANK", "-1"}}), "expected RANK to be a whole number, got -1;");
  expect_refusal(with(by_hand(), {{"RANK", "1.5"}}), "got 1.5;");
  expect_refusal(with(by_hand(), {{"RANK", "99999999999"}}), "got 99999999999;");
  expect_refusal(with(by_hand(), {{"RANK", "2"}}), "expected RANK below WORLD_SIZE=2, got 2;");
  expect_refusal(
      {{"RANK", "0"}, {"WORLD_SIZE", "0"}, {"LOCAL_RANK", "0"}, {"LOCAL_WORLD_SIZE", "1"}},
      "expected RANK below WORLD_SIZE=0, got 0;");
  expect_refusal(with(by_hand(), {{"LOCAL_RANK", "2"}}),
                 "expected LOCAL_RANK below LOCAL_WORLD_SIZE=2, got 2;");
  expect_refusal(with(by_hand(), {{"LOCAL_WORLD_SIZE", "3"}}),
                 "expected LOCAL_WORLD_SIZE of at most WORLD_SIZE=2, got 3;");
  expect_refusal(with(srun(), {{"SLURM_NODEID", "2"}}), "the tasks of SLURM_NODEID=2, such as");
  expect_refusal(with(srun(), {{"SLURM_PROCID", "5"}}),
                 "expected SLURM_PROCID below SLURM_STEP_NUM_TASKS=5, got 5");
  for (const char* port : {"0", "65536"}) {
    expect_refusal(with(by_hand(), {{"MASTER_PORT", port}}),
                   "expected MASTER_PORT from 1 to 65535, got " + std::string(port));
  }
  expect_refusal(with(by_hand(), {{"MASTER_PORT", "http"}}), "MASTER_PORT to be a whole number");
}

TEST(LaunchErrors, OverSeveralHostsTheRemedyIsTheLaunchersOwn) {
  const Variables over_hosts = {{"OMPI_COMM_WORLD_LOCAL_SIZE", "1"},
                                {"OMPI_COMM_WORLD_LOCAL_RANK", "0"}};
  expect_refusal(with(mpirun(), over_hosts),
                 "expected MASTER_ADDR, as 1 of 2 processes are on other hosts, got nothing; start "
                 "with mpirun -x MASTER_ADDR=<host of process 0>");
  expect_refusal(mpiexec(), "start with mpiexec -genv MASTER_ADDR <host of process 0>");
  expect_refusal(with(by_hand(), {{"WORLD_SIZE", "4"}}), "set MASTER_ADDR=<host of process 0> in");
}

TEST(LaunchErrors, SlurmMustTellTheHostOfProcess0) {
  const auto arbitrary = with(srun(), {{"SLURM_DISTRIBUTION", "arbitrary"}});
  expect_refusal(arbitrary, "export MASTER_ADDR=<host of process 0> before srun");
  EXPECT_EQ(launch_in(with(arbitrary, {{"MASTER_ADDR", "node02"}})).rendezvous_host, "node02");
  expect_refusal(with(srun(), {{"SLURM_STEP_NODELIST", "node[01-"}}),
                 "expected SLURM_STEP_NODELIST to list hosts, such as node[01-04], got 'node[01-'");
}

TEST(LaunchErrors, ABatchScriptOrShellOfSeveralTasksIsNotOneProcess) {
  const std::string remedy =
      "start crnet with srun, or for one process by intent with CRNET_LAUNCHER=none";
  expect_refusal(sbatch(), "expected a step of srun, as the job has SLURM_NTASKS=5, got a batch");
  expect_refusal(sbatch(), remedy);
  expect_refusal(interactive_step(), "as the job has SLURM_NTASKS=4");
  const Variables salloc = {
      {"SLURM_JOB_ID", "7"}, {"SLURM_NTASKS", "4"}, {"SLURM_JOB_NUM_NODES", "2"}};
  expect_refusal(salloc, "as the job has SLURM_NTASKS=4");
  expect_refusal(with(salloc, {{"SLURM_NTASKS", ""}}), "as the job has SLURM_JOB_NUM_NODES=2");
  expect_refusal(with(sbatch(), {{"CRNET_LAUNCHER", "slurm"}}),
                 "expected SLURM_STEP_ID of a step of srun, got nothing; " + remedy);
}

TEST(LaunchErrors, AStepThatABatchScriptInheritedIsNotItsOwn) {
  // Seen with sbatch -n3 from within srun -n1.
  const auto inherited = with(sbatch(), {{"SLURM_STEP_ID", "0"},
                                         {"SLURM_STEP_NUM_TASKS", "1"},
                                         {"SLURM_STEP_TASKS_PER_NODE", "1"},
                                         {"SLURM_STEP_NODELIST", "node01"}});
  expect_refusal(inherited, "submitted from within a step");
  EXPECT_EQ(launch_in(with(inherited, mpirun())).launcher, Launcher::kOpenMpi);
}

TEST(LaunchErrors, SlurmsRankWithoutItsJobIsIncomplete) {
  expect_refusal({{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "2"}},
                 "expected SLURM_JOB_ID and SLURM_STEP_ID beside SLURM_PROCID=0");
}

TEST(LaunchErrors, PmixGivesNoSize) {
  const Variables prterun = {{"PMIX_RANK", "1"}, {"PMIX_NAMESPACE", "prterun-node01-4711@1"}};
  expect_refusal(prterun, "expected the number of processes beside PMIX_RANK");
  // Its daemon's place in Slurm is not the process's.
  expect_refusal(with(daemon_of_mpi(), prterun), "expected the number of processes beside PMIX_");
  EXPECT_EQ(launch_in(with(prterun, by_hand())).launcher, Launcher::kByHand);
}

TEST(LaunchErrors, TwoLaunchersThatDisagreeAreBothNamed) {
  expect_refusal(with(mpirun(), {{"RANK", "0"}, {"WORLD_SIZE", "4"}}),
                 "got process 0 of 4 by RANK and WORLD_SIZE and process 1 of 2 by mpirun (Open "
                 "MPI); start with one of them, or choose by CRNET_LAUNCHER");
  // torchrun --standalone by each of two processes: two trainings.
  expect_refusal(with(daemon_of_mpi(), torchrun()), "by torchrun and process 1 of 2 by srun (Slu");
  // mpirun by each of five tasks.
  expect_refusal(with(srun(), with(mpirun(), {{"SLURM_NODEID", "0"}})),
                 "by mpirun (Open MPI) and process 4 of 5 by srun (Slurm)");
  expect_refusal(with(srun(), {{"PMI_RANK", "0"}, {"PMI_SIZE", "2"}}),
                 "by mpiexec (Hydra) and process 4 of 5 by srun (Slurm)");
  expect_refusal(with(srun(), {{"RANK", "3"}, {"WORLD_SIZE", "5"}}), "got process 3 of 5 by RANK");
}

TEST(LaunchErrors, AnUnknownLauncherIsAnsweredWithTheKnownOnes) {
  expect_refusal({{"CRNET_LAUNCHER", "mpi"}},
                 "to be none, crnet, torchrun, openmpi, hydra or slurm, got mpi");
  expect_refusal({{"CRNET_LAUNCHER", "openmpi"}}, "expected OMPI_COMM_WORLD_RANK, got nothing");
}

}  // namespace
}  // namespace crnet
