// The scripts signal the process that supervises them, their parent.
#include <gmock/gmock.h>
#include <sys/prctl.h>

#include <chrono>
#include <thread>

#include "crnet/core/format.h"
#include "dist/shell_launch.h"
#include "dist/signal_inbox.h"

namespace crnet {
namespace {

using SupervisorSignals = ShellLaunch;
using testing::HasSubstr, testing::Not;

// Process 0 goes on when both are ready; the others only wait.
constexpr const char* kAllReady =
    "touch ready.$RANK\n"
    "until [ -e ready.0 ] && [ -e ready.1 ]; do sleep 0.01; done\n";
constexpr const char* kWaitForEver = "\nwhile :; do sleep 0.01; done";

std::string script(const std::string& traps, const std::string& of_process_0) {
  return traps + "\n" + kAllReady + "if [ $RANK = 0 ]; then " + of_process_0 + "; fi" +
         kWaitForEver;
}

TEST_F(SupervisorSignals, EachGoesOnToAllProcesses) {
  for (const char* name : {"INT", "TERM", "HUP", "USR1", "USR2"}) {
    const auto trap = format("trap 'mv ready.$RANK %s.$RANK; exit 0' %s", name, name);
    EXPECT_EQ(launch(processes(2, script(trap, format("kill -%s $PPID", name)))), 0) << name;
    EXPECT_TRUE(std::filesystem::exists(folder_ / format("%s.0", name))) << name;
    EXPECT_TRUE(std::filesystem::exists(folder_ / format("%s.1", name))) << name;
  }
}

TEST_F(SupervisorSignals, ASecondSigtermDoesNotGoOn) {
  EXPECT_EQ(launch(processes(2, script("trap 'echo x >> got.$RANK' TERM; trap 'exit 0' USR1",
                                       "kill -TERM $PPID\n"
                                       "until [ -e got.0 ] && [ -e got.1 ]; do sleep 0.01; done\n"
                                       "kill -TERM $PPID; kill -USR1 $PPID"))),
            0);
  EXPECT_EQ(text("got.0"), "x\n");
  EXPECT_EQ(text("got.1"), "x\n");
}

TEST_F(SupervisorSignals, ASecondSigintKills) {
  EXPECT_EQ(launch(processes(2, script("trap 'touch got' INT",
                                       "kill -INT $PPID; until [ -e got ]; do sleep 0.01; done\n"
                                       "kill -INT $PPID")),
                   says_into_file()),
            137);
  EXPECT_THAT(said(), HasSubstr("killed all processes at the second Ctrl-C\n"));
  EXPECT_THAT(said(), Not(HasSubstr("SIGKILL")));
}

TEST_F(SupervisorSignals, AProcessThatTheSignalEndsGivesItsCode) {
  EXPECT_EQ(launch(processes(2, script("", "kill -TERM $PPID"))), 143);
}

TEST_F(SupervisorSignals, ALaunchThatTheUserEndedIsNotRestarted) {
  auto options = processes(1, "echo x >> attempts; kill -HUP $PPID; sleep 1000");
  options.max_restarts = 3;
  EXPECT_EQ(launch(options), 129);
  EXPECT_EQ(text("attempts"), "x\n");
}

TEST_F(SupervisorSignals, TheUserCanEndItBetweenTwoAttempts) {
  auto options =
      processes(1,
                "echo x >> attempts\n"
                "setsid sh -c \"touch apart; until ! kill -0 $$ 2> /dev/null; do sleep 0.01; done\n"
                "             kill -TERM $PPID\" &\n"
                "until [ -e apart ]; do sleep 0.01; done\n"
                "exit 1");
  options.max_restarts = 3;
  options.restart_pause = 60;
  EXPECT_EQ(launch(options), 1);
  EXPECT_EQ(text("attempts"), "x\n");
}

TEST_F(SupervisorSignals, WhatIsIgnoredStaysIgnored) {
  auto options = processes(1, "echo x >> attempts; kill -HUP $PPID; exit 1");
  options.max_restarts = 1;
  EXPECT_EQ(launch(options, [] { std::signal(SIGHUP, SIG_IGN); }), 1);  // nohup
  EXPECT_EQ(text("attempts"), "x\nx\n");
}

TEST_F(SupervisorSignals, AnIgnoredSigchldDoesNotHideHowAProcessEnded) {
  EXPECT_EQ(launch(processes(1, "exit 3"), [] { std::signal(SIGCHLD, SIG_IGN); }), 3);
}

TEST_F(SupervisorSignals, ActionAndMaskAreAsBefore) {
  const auto former = std::signal(SIGCHLD, SIG_IGN);
  { const SignalInbox inbox; }
  EXPECT_EQ(std::signal(SIGCHLD, former), SIG_IGN);
  sigset_t blocked;
  sigprocmask(SIG_BLOCK, nullptr, &blocked);
  EXPECT_EQ(sigismember(&blocked, SIGTERM), 0);
}

// Orphans become children of this process while one lives.
struct Subreaper {
  Subreaper() { prctl(PR_SET_CHILD_SUBREAPER, 1UL); }
  ~Subreaper() { prctl(PR_SET_CHILD_SUBREAPER, 0UL); }

  static void expect_killed(const std::string& pid) {
    int status = 0;
    EXPECT_EQ(waitpid(std::stoi(pid), &status, 0), std::stoi(pid));
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << status;
  }
};

TEST_F(SupervisorSignals, WhatAProcessLeavesBehindIsKilled) {
  const Subreaper subreaper;
  EXPECT_EQ(launch(processes(1, "sleep 1000 & echo $! > pid")), 0);
  subreaper.expect_killed(text("pid"));
}

TEST_F(SupervisorSignals, TheProcessesDieWithALauncherThatIsKilled) {
  const Subreaper subreaper;
  const pid_t launcher = start(processes(2, "echo $$ > pid.$RANK; exec sleep 1000"));
  while (text("pid.0").empty() || text("pid.1").empty()) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  kill(launcher, SIGKILL);
  waitpid(launcher, nullptr, 0);
  subreaper.expect_killed(text("pid.0"));
  subreaper.expect_killed(text("pid.1"));
}

}  // namespace
}  // namespace crnet
