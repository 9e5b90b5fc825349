#include <fcntl.h>
#include <sched.h>

#include <algorithm>
#include <cstdlib>
#include <map>

#include "dist/launch_environment.h"
#include "dist/shell_launch.h"

namespace crnet {
namespace {

class LaunchEnvironment : public ShellLaunch {
 protected:
  void set(const char* name, const char* value) {
    setenv(name, value, 1);
    names_.push_back(name);
  }
  void TearDown() override {
    for (const char* name : names_) unsetenv(name);
    ShellLaunch::TearDown();
  }

 private:
  std::vector<const char*> names_;
};

TEST_F(LaunchEnvironment, EachProcessLearnsItsPlace) {
  ASSERT_EQ(launch(processes(3,
                             "echo $RANK $WORLD_SIZE $LOCAL_RANK $LOCAL_WORLD_SIZE "
                             "$MASTER_ADDR > place.$RANK")),
            0);
  EXPECT_EQ(text("place.0"), "0 3 0 3 127.0.0.1\n");
  EXPECT_EQ(text("place.1"), "1 3 1 3 127.0.0.1\n");
  EXPECT_EQ(text("place.2"), "2 3 2 3 127.0.0.1\n");
}

TEST_F(LaunchEnvironment, IsWhatDetectLaunchReads) {
  set("TORCHELASTIC_RUN_ID", "stranger");
  set("SLURM_PROCID", "7");
  Launch place;
  place.rank = place.local_rank = 2;
  place.world_size = place.local_world_size = 3;
  place.rendezvous_host = "127.0.0.1";
  place.rendezvous_port = 4711;
  place.job = make_job_id();
  std::map<std::string, std::string> variables;
  for (const auto& entry : launch_environment(place)) {
    const size_t end = entry.find('=');
    variables[entry.substr(0, end)] = entry.substr(end + 1);
  }
  const Launch detected = detect_launch([&](const char* name) -> std::optional<std::string> {
    const auto found = variables.find(name);
    return found == variables.end() ? std::nullopt : std::optional(found->second);
  });
  EXPECT_EQ(describe(detected),
            "crnet launch: process 2 of 3, local 2 of 3, rendezvous 127.0.0.1:4711");
  EXPECT_EQ(detected.job, place.job);
}

TEST_F(LaunchEnvironment, PortAndIdAreTheSameForAllAndNewAtARestart) {
  auto options = processes(2, "echo $CRNET_LAUNCH $MASTER_PORT >> meeting.$RANK; exit 1");
  options.max_restarts = 1;
  options.grace = 60;
  ASSERT_EQ(launch(options), 1);
  EXPECT_EQ(text("meeting.0"), text("meeting.1"));
  std::istringstream lines(text("meeting.0"));
  std::string first_id, second_id;
  int first_port = 0, second_port = 0;
  lines >> first_id >> first_port >> second_id >> second_port;
  EXPECT_TRUE(first_id.size() == 16 && second_id.size() == 16) << lines.str();
  EXPECT_NE(first_id, second_id);
  EXPECT_TRUE(first_port > 0 && second_port > 0) << lines.str();
}

TEST_F(LaunchEnvironment, WhatOtherLaunchersSetIsTakenOutAndTheRestStays) {
  for (const char* name :
       {"RANK", "GROUP_RANK", "ROLE_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK",
        "SLURM_PROCID", "TORCHELASTIC_USE_AGENT_STORE", "CRNET_LAUNCHER", "MPI_LOCALRANKID"}) {
    set(name, "stranger");
  }
  set("CRNET_TEST_OF_LAUNCH", "a = b");
  ASSERT_EQ(launch(processes(1, "env > environment")), 0);
  EXPECT_EQ(text("environment").find("stranger"), std::string::npos) << text("environment");
  EXPECT_NE(text("environment").find("\nRANK=0\n"), std::string::npos) << text("environment");
  EXPECT_NE(text("environment").find("CRNET_TEST_OF_LAUNCH=a = b\n"), std::string::npos);
}

TEST_F(LaunchEnvironment, CoresAreSharedUnlessTheUserHasSaidHow) {
  unsetenv("OMP_NUM_THREADS");
  cpu_set_t cores;
  ASSERT_EQ(sched_getaffinity(0, sizeof(cores), &cores), 0);
  ASSERT_EQ(launch(processes(2, "echo $OMP_NUM_THREADS > threads.$RANK")), 0);
  EXPECT_EQ(text("threads.1"), std::to_string(std::max(1, CPU_COUNT(&cores) / 2)) + "\n");
  set("OMP_NUM_THREADS", "77");
  ASSERT_EQ(launch(processes(2, "echo $OMP_NUM_THREADS > threads.$RANK")), 0);
  EXPECT_EQ(text("threads.1"), "77\n");
}

TEST_F(LaunchEnvironment, EachLeadsAGroupOfItsOwnAndReadsNothing) {
  const auto has_input = [] { dup2(open("/dev/zero", O_RDONLY), STDIN_FILENO); };
  ASSERT_EQ(launch(processes(2,
                             "read -r pid name state parent group rest < /proc/$$/stat\n"
                             "[ $pid = $group ] && readlink /proc/$$/fd/0 > input.$RANK"),
                   has_input),
            0);
  EXPECT_EQ(text("input.0"), "/dev/null\n");
  EXPECT_EQ(text("input.1"), "/dev/null\n");
}

}  // namespace
}  // namespace crnet
