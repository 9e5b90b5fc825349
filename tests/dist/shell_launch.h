// Launches of small shell scripts, which leave what they have to tell in files.
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>
#include <string>
#include <vector>

#include "crnet/dist/supervisor.h"

namespace crnet {

class ShellLaunch : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::path(testing::TempDir()) /
              ("crnet_launch_" + std::to_string(getpid()) + "_" +
               testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  /// `sh -c script` in the test's folder, by so many processes. Times are short; where a test
  /// depends on a process having time, it sets its own.
  [[nodiscard]] SuperviseOptions processes(int num, const std::string& script) const {
    SuperviseOptions options;
    options.num_processes = num;
    options.executable = "/bin/sh";
    options.command = command(script);
    options.grace = 0.02;
    options.kill_after = 60;
    options.restart_pause = 0.01;
    return options;
  }

  [[nodiscard]] std::vector<std::string> command(const std::string& script) const {
    return {"sh", "-c", "cd '" + folder_.string() + "' || exit 99\n" + script};
  }

  /// Supervises in a process of its own, whose id is returned: here may be other threads, left by
  /// other tests, which would take its signals. `prepare` is called there before.
  static pid_t start(const SuperviseOptions& options, const std::function<void()>& prepare = {}) {
    const pid_t launcher = fork();
    if (launcher == 0) be_launcher(options, prepare);
    return launcher;
  }

  /// The exit code of `crnet launch`.
  static int launch(const SuperviseOptions& options, const std::function<void()>& prepare = {}) {
    int status = 0;
    waitpid(start(options, prepare), &status, 0);
    EXPECT_TRUE(WIFEXITED(status)) << "the launcher was ended by signal " << WTERMSIG(status);
    return WEXITSTATUS(status);
  }

  /// What the scripts wrote; "" where there is no such file.
  [[nodiscard]] std::string text(const std::string& name) const {
    std::ostringstream content;
    content << std::ifstream(folder_ / name).rdbuf();
    return content.str();
  }

  /// For `prepare`: what the launcher says goes into a file, which said() reads.
  [[nodiscard]] std::function<void()> says_into_file() const {
    return [file = folder_ / "said"] {
      if (std::freopen(file.c_str(), "w", stderr) == nullptr) _exit(97);
    };
  }
  [[nodiscard]] std::string said() const { return text("said"); }

  std::filesystem::path folder_;

 private:
  [[noreturn]] static void be_launcher(const SuperviseOptions& options,
                                       const std::function<void()>& prepare) noexcept {
    alarm(120);  // ends it where the launch does not end
    // A shell's background job is started with SIGINT ignored.
    for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2}) {
      std::signal(signal, SIG_DFL);
    }
    if (prepare) prepare();
    const int code = supervise(options);
    const bool is_clean = waitpid(-1, nullptr, WNOHANG) == -1 && errno == ECHILD;
    _exit(is_clean ? code : 98);  // 98: a process or a zombie is left
  }
};

}  // namespace crnet
