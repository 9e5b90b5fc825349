#include "crnet/dist/supervisor.h"

#include <gmock/gmock.h>

#include "crnet/core/error.h"
#include "dist/shell_launch.h"

namespace crnet {
namespace {

using Supervisor = ShellLaunch;
using testing::EndsWith, testing::HasSubstr, testing::Not;
constexpr const char* kWaitForEver = "exec sleep 1000";

std::string error_of(const SuperviseOptions& options) {
  try {
    static_cast<void>(supervise(options));
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST_F(Supervisor, AllEndWithZero) {
  EXPECT_EQ(launch(processes(4, "touch ended.$RANK")), 0);
  for (const char* name : {"ended.0", "ended.1", "ended.2", "ended.3"}) {
    EXPECT_TRUE(std::filesystem::exists(folder_ / name)) << name;
  }
}

TEST_F(Supervisor, ExitCodeIsThatOfTheFirstThatFailed) {
  auto options =
      processes(2,
                "if [ $RANK = 1 ]; then echo $$ > first; exit 7; fi\n"
                "until [ -s first ] && ! kill -0 $(cat first) 2> /dev/null; do sleep 0.01; done\n"
                "exit 8");
  options.grace = 60;
  EXPECT_EQ(launch(options), 7);
}

TEST_F(Supervisor, OneKilledProcessEndsTheOthers) {
  EXPECT_EQ(launch(processes(3, std::string("[ $RANK = 1 ] && kill -KILL $$\n") + kWaitForEver)),
            137);
}

TEST_F(Supervisor, TheOthersHaveTimeToEnd) {
  auto options = processes(2, "[ $RANK = 1 ] && exit 5; sleep 0.1; touch ended");
  options.grace = options.usual_end = 60;
  EXPECT_EQ(launch(options, says_into_file()), 5);
  EXPECT_TRUE(std::filesystem::exists(folder_ / "ended"));
  EXPECT_THAT(said(), HasSubstr("process 1 of 2 exited with 5\n"));
  EXPECT_THAT(said(), Not(HasSubstr("to end")));
}

TEST_F(Supervisor, OthersThatDoNotEndSoonAreSaidToHaveTime) {
  auto options = processes(2, "[ $RANK = 1 ] && exit 5; sleep 3");
  options.grace = 60;
  options.usual_end = 0.01;
  EXPECT_EQ(launch(options, says_into_file()), 5);
  EXPECT_THAT(said(), ::testing::ContainsRegex("the others have .*s to end"));
}

TEST_F(Supervisor, OneThatDoesNotHeedSigtermIsKilled) {
  auto options = processes(2,
                           "if [ $RANK = 0 ]; then trap '' TERM; touch deaf; exec sleep 1000; fi\n"
                           "until [ -e deaf ]; do sleep 0.01; done\n"
                           "exit 3");
  options.kill_after = 0.02;
  EXPECT_EQ(launch(options), 3);
}

TEST_F(Supervisor, RestartsAreCountedAndRunTheirOwnCommand) {
  auto options = processes(2, "echo first >> attempts.$RANK; exit 4");
  options.grace = 60;
  options.restart_command = command("echo again >> attempts.$RANK; exit 6");
  options.max_restarts = 2;
  EXPECT_EQ(launch(options), 6);
  EXPECT_EQ(text("attempts.0"), "first\nagain\nagain\n");
  EXPECT_EQ(text("attempts.1"), "first\nagain\nagain\n");
}

TEST_F(Supervisor, AdviceIsGivenOnceWhereNoRestartIsLeft) {
  auto options = processes(2, "exit 1");
  options.advice = "to go on: this";
  options.max_restarts = 1;
  EXPECT_EQ(launch(options, says_into_file()), 1);
  EXPECT_THAT(said(), EndsWith("to go on: this\n"));
  EXPECT_EQ(said().find("to go on"), said().rfind("to go on"));
}

TEST_F(Supervisor, AUserWhoErredOrARunThatEndedWellGetsNoAdvice) {
  for (const char* script : {"exit 2", "exit 0"}) {
    auto options = processes(2, script);
    options.advice = "to go on: this";
    launch(options, says_into_file());
    EXPECT_THAT(said(), Not(HasSubstr("to go on"))) << script;
  }
}

TEST_F(Supervisor, ARestartThatEndsWellIsTheLast) {
  auto options = processes(1, "echo x >> attempts; [ $(wc -l < attempts) = 3 ]");
  options.max_restarts = 9;
  EXPECT_EQ(launch(options), 0);
  EXPECT_EQ(text("attempts"), "x\nx\nx\n");
}

TEST_F(Supervisor, AUsageErrorIsNotRestarted) {
  auto options = processes(1, "echo x >> attempts; exit 2");
  options.max_restarts = 3;
  EXPECT_EQ(launch(options), 2);
  EXPECT_EQ(text("attempts"), "x\n");
}

TEST_F(Supervisor, AUsageErrorIsNotRestartedWhereAnotherFailsFirst) {
  auto options =
      processes(2,
                "if [ $RANK = 1 ]; then echo $$ > first; exit 1; fi\n"
                "echo x >> attempts\n"
                "until [ -s first ] && ! kill -0 $(cat first) 2> /dev/null; do sleep 0.01; done\n"
                "exit 2");
  options.max_restarts = 3;
  options.grace = 60;
  EXPECT_EQ(launch(options), 1);
  EXPECT_EQ(text("attempts"), "x\n");
}

TEST_F(Supervisor, AProgramThatCannotRunIsNamed) {
  auto options = processes(2, "");
  options.executable = "/nowhere/crnet";
  EXPECT_EQ(error_of(options),
            "[launch] expected to run /nowhere/crnet, got: No such file or directory");
}

TEST_F(Supervisor, WrongOptionsAreRefused) {
  const auto is_refused = [&](SuperviseOptions options) {
    EXPECT_THROW(static_cast<void>(supervise(options)), UsageError);
  };
  is_refused(processes(0, ""));
  is_refused(processes(1025, ""));
  auto options = processes(1, "");
  options.max_restarts = -1;
  is_refused(options);
  options = processes(1, "");
  options.command.clear();
  is_refused(options);
}

}  // namespace
}  // namespace crnet
