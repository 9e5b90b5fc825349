#include "crnet/dist/launch.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <vector>

#include "launch_cases.h"

namespace crnet {
namespace {

TEST(Launch, WithoutALauncherItIsOneProcess) {
  const Launch launch = launch_in({});
  EXPECT_EQ(launch.launcher, Launcher::kNone);
  EXPECT_FALSE(launch.is_distributed());
  EXPECT_EQ(describe(launch), "one process");
}

TEST(Launch, WhatPeopleExportInTheirShellsIsNoLauncher) {
  EXPECT_EQ(describe(launch_in({{"MASTER_ADDR", "node01"}, {"MASTER_PORT", "29500"}})),
            "one process");
  EXPECT_EQ(describe(launch_in({{"LOCAL_RANK", "0"}, {"RANK", ""}, {"MPI_LOCALRANKID", "0"}})),
            "one process");
}

TEST(Launch, TheEnvironmentOfTheProcessIsTheDefault) {
  ::setenv("CRNET_TEST_OF_LAUNCH", "a = b", 1);
  EXPECT_EQ(process_environment("CRNET_TEST_OF_LAUNCH"), "a = b");
  ::unsetenv("CRNET_TEST_OF_LAUNCH");
  EXPECT_EQ(process_environment("CRNET_TEST_OF_LAUNCH"), std::nullopt);
}

TEST(Launch, TorchrunsAgentServesTheStore) {
  const Launch launch = launch_in(torchrun());
  EXPECT_EQ(describe(launch), "torchrun: process 1 of 2, local 1 of 2, rendezvous localhost:34697");
  EXPECT_EQ(launch.launcher, Launcher::kTorchrun);
  EXPECT_TRUE(launch.is_distributed());
  EXPECT_TRUE(launch.store_is_served);
  EXPECT_EQ(launch.job, "d935d407-e1a0-4cf1-9031-3fabb267b8e7");
  EXPECT_FALSE(
      launch_in(with(torchrun(), {{"TORCHELASTIC_USE_AGENT_STORE", "False"}})).store_is_served);
}

TEST(Launch, CrnetLaunchIsToldFromVariablesSetByHand) {
  const auto at_port = with(by_hand(), {{"MASTER_ADDR", "127.0.0.1"}, {"MASTER_PORT", "4711"}});
  const Launch ours = launch_in(with(at_port, {{"CRNET_LAUNCH", "0123456789abcdef"}}));
  EXPECT_EQ(describe(ours),
            "crnet launch: process 1 of 2, local 1 of 2, rendezvous 127.0.0.1:4711");
  EXPECT_EQ(ours.job, "0123456789abcdef");
  EXPECT_FALSE(ours.store_is_served);
  const Launch own = launch_in(at_port);
  EXPECT_EQ(describe(own),
            "RANK and WORLD_SIZE: process 1 of 2, local 1 of 2, rendezvous 127.0.0.1:4711");
  EXPECT_EQ(own.job, "");
}

TEST(Launch, OneProcessByHandNeedsNoLocalRank) {
  EXPECT_EQ(describe(launch_in({{"RANK", "0"}, {"WORLD_SIZE", "1"}})),
            "RANK and WORLD_SIZE: process 0 of 1, local 0 of 1, rendezvous 127.0.0.1:29500");
}

TEST(Launch, ProcessesOfMpirunOnOneHostMeetAtAPortOfTheirJob) {
  const Launch launch = launch_in(mpirun());
  EXPECT_EQ(describe(launch),
            "mpirun (Open MPI): process 1 of 2, local 1 of 2, rendezvous 127.0.0.1:27694");
  EXPECT_EQ(launch.job, "1620180993");
  const Launch other = launch_in(with(mpirun(), {{"PMIX_NAMESPACE", "1620180994"}}));
  EXPECT_NE(other.rendezvous_port, launch.rendezvous_port);
}

TEST(Launch, PortsOfJobsAreBelowTheEphemeralOnes) {
  for (int job = 0; job < 500; ++job) {
    const auto name = "prterun-node01-" + std::to_string(job) + "@1";
    const int port = launch_in(with(mpirun(), {{"PMIX_NAMESPACE", name}})).rendezvous_port;
    EXPECT_TRUE(port >= 20000 && port < 32000) << port;
  }
}

TEST(Launch, MasterAddressAndPortAreTheUsers) {
  const Variables over_hosts =
      with(mpirun(), {{"OMPI_COMM_WORLD_LOCAL_SIZE", "1"}, {"OMPI_COMM_WORLD_LOCAL_RANK", "0"}});
  const Launch launch =
      launch_in(with(over_hosts, {{"MASTER_ADDR", "node01"}, {"MASTER_PORT", "29511"}}));
  EXPECT_EQ(describe(launch),
            "mpirun (Open MPI): process 1 of 2, local 0 of 1, rendezvous node01:29511");
  EXPECT_EQ(launch_in(with(over_hosts, {{"MASTER_ADDR", "node01"}})).rendezvous_port, 27694);
}

TEST(Launch, HydraHasNoJobAndMeetsAtPyTorchsPort) {
  const Launch launch = launch_in(with(mpiexec(), {{"MASTER_ADDR", "node01"}}));
  EXPECT_EQ(describe(launch),
            "mpiexec (Hydra): process 3 of 4, local 1 of 2, rendezvous node01:29500");
  EXPECT_EQ(launch.job, "");
}

TEST(Launch, ProcessesOfSrunMeetOnTheFirstHostOfTheirStep) {
  const Launch launch = launch_in(srun());
  EXPECT_EQ(describe(launch),
            "srun (Slurm): process 4 of 5, local 0 of 1, rendezvous node01:20808");
  EXPECT_EQ(launch.job, "7.0");
  const auto first = with(srun(), {{"SLURM_PROCID", "2"},
                                   {"SLURM_LOCALID", "2"},
                                   {"SLURM_NODEID", "0"},
                                   {"MASTER_ADDR", "10.0.0.1"}});
  EXPECT_EQ(describe(launch_in(first)),
            "srun (Slurm): process 2 of 5, local 2 of 4, rendezvous 10.0.0.1:20808");
  EXPECT_NE(launch_in(with(srun(), {{"SLURM_STEP_ID", "1"}})).rendezvous_port,
            launch.rendezvous_port);
}

TEST(Launch, AStepOfOneTaskInALargerJobIsOneProcess) {
  const auto one_task = with(srun(), {{"SLURM_PROCID", "0"},
                                      {"SLURM_NODEID", "0"},
                                      {"SLURM_NTASKS", "1"},
                                      {"SLURM_STEP_NODELIST", "node01"},
                                      {"SLURM_STEP_NUM_TASKS", "1"},
                                      {"SLURM_STEP_TASKS_PER_NODE", "1"},
                                      {"SLURM_TASKS_PER_NODE", "1"}});
  const Launch launch = launch_in(one_task);
  EXPECT_EQ(launch.launcher, Launcher::kSlurm);
  EXPECT_EQ(launch.world_size, 1);
  EXPECT_EQ(launch.rendezvous_host, "127.0.0.1");
}

TEST(Launch, AStepWithoutItsNumberOfTasksHasTheJobs) {
  EXPECT_EQ(launch_in(with(srun(), {{"SLURM_STEP_NUM_TASKS", ""}})).world_size, 5);
}

TEST(Launch, ABatchScriptOfOneTaskIsOneProcess) {
  const auto one_node = with(sbatch(), {{"SLURM_JOB_NUM_NODES", "1"}});
  EXPECT_EQ(describe(launch_in(with(one_node, {{"SLURM_NTASKS", "1"}}))), "one process");
  // sbatch --exclusive without -n: the node's cores, though no tasks were asked for.
  const auto exclusive = with(one_node, {{"SLURM_NTASKS", ""}, {"SLURM_TASKS_PER_NODE", "8"}});
  EXPECT_EQ(describe(launch_in(exclusive)), "one process");
}

TEST(Launch, SrunsOwnVariablesOfMpiSayNothingNew) {
  const auto pmi2 = with(srun(), {{"PMI_RANK", "4"}, {"PMI_SIZE", "5"}, {"PMI_JOBID", "7.0"}});
  EXPECT_EQ(launch_in(pmi2).launcher, Launcher::kSlurm);
  const auto pmix = with(srun(), {{"PMIX_RANK", "4"}, {"PMIX_NAMESPACE", "slurm.pmix.7.0"}});
  EXPECT_EQ(launch_in(pmix).launcher, Launcher::kSlurm);
}

TEST(Launch, ASizeOrRankExportedForOtherProgramsSaysNothingNew) {
  EXPECT_EQ(launch_in(with(srun(), {{"WORLD_SIZE", "5"}})).launcher, Launcher::kSlurm);
  EXPECT_EQ(launch_in(with(srun(), {{"RANK", "4"}})).launcher, Launcher::kSlurm);
  EXPECT_EQ(launch_in(with(mpirun(), {{"RANK", "1"}, {"WORLD_SIZE", "2"}})).launcher,
            Launcher::kOpenMpi);
}

TEST(Launch, AFullPlaceByHandThatAgreesIsTaken) {
  // Each task of srun --gpus-per-task=1 sees one device.
  const auto one_device = with(srun(), {{"RANK", "4"},
                                        {"WORLD_SIZE", "5"},
                                        {"LOCAL_RANK", "0"},
                                        {"LOCAL_WORLD_SIZE", "1"},
                                        {"MASTER_ADDR", "node01"}});
  EXPECT_EQ(launch_in(one_device).launcher, Launcher::kByHand);
}

TEST(Launch, TheInnermostLauncherWins) {
  const auto two_torchruns =
      with(torchrun(),
           {{"RANK", "3"}, {"WORLD_SIZE", "4"}, {"GROUP_RANK", "1"}, {"GROUP_WORLD_SIZE", "2"}});
  const auto mpirun_of_one = with(mpirun(), {{"OMPI_COMM_WORLD_RANK", "0"},
                                             {"OMPI_COMM_WORLD_SIZE", "1"},
                                             {"OMPI_COMM_WORLD_LOCAL_RANK", "0"},
                                             {"OMPI_COMM_WORLD_LOCAL_SIZE", "1"}});
  struct Case {
    const char* what;
    Variables variables;
    Launcher innermost;
    int world_size;
  };
  const std::vector<Case> cases = {
      {"mpirun in a batch script", with(sbatch(), mpirun()), Launcher::kOpenMpi, 2},
      {"torchrun in a batch script", with(sbatch(), torchrun()), Launcher::kTorchrun, 2},
      {"mpirun in Slurm", with(daemon_of_mpi(), mpirun()), Launcher::kOpenMpi, 2},
      {"mpiexec in Slurm", with(daemon_of_mpi(), with(mpiexec(), {{"MASTER_ADDR", "node01"}})),
       Launcher::kHydra, 4},
      {"torchrun by each process of mpirun", with(mpirun(), two_torchruns), Launcher::kTorchrun, 4},
      {"torchrun by each task of srun, which are numbered otherwise",
       with(daemon_of_mpi(), with(two_torchruns, {{"GROUP_RANK", "0"}})), Launcher::kTorchrun, 4},
      {"torchrun by mpirun -np 1", with(mpirun_of_one, torchrun()), Launcher::kTorchrun, 2}};
  for (const auto& [what, variables, innermost, world_size] : cases) {
    SCOPED_TRACE(what);
    const Launch launch = launch_in(variables);
    EXPECT_EQ(launch.launcher, innermost);
    EXPECT_EQ(launch.world_size, world_size);
  }
}

TEST(Launch, TheUserCanNameTheLauncher) {
  const auto both = with(sbatch(), mpirun());
  EXPECT_EQ(describe(launch_in(with(both, {{"CRNET_LAUNCHER", "none"}}))), "one process");
  EXPECT_EQ(describe(launch_in(with(sbatch(), {{"CRNET_LAUNCHER", "none"}}))), "one process");
  const auto disagree = with(with(mpirun(), by_hand()), {{"WORLD_SIZE", "3"}});
  EXPECT_EQ(launch_in(with(disagree, {{"CRNET_LAUNCHER", "openmpi"}})).world_size, 2);
  for (const char* name : {"torchrun", "crnet"}) {
    EXPECT_EQ(
        launch_in(with(disagree, {{"CRNET_LAUNCHER", name}, {"MASTER_ADDR", "a"}})).world_size, 3);
  }
  EXPECT_EQ(launch_in(with(with(srun(), by_hand()), {{"CRNET_LAUNCHER", "slurm"}})).rank, 4);
  EXPECT_EQ(
      launch_in(with(mpiexec(), {{"CRNET_LAUNCHER", "hydra"}, {"MASTER_ADDR", "node01"}})).rank, 3);
}

}  // namespace
}  // namespace crnet
