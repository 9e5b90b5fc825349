// One attempt of a launch: all its processes, from their start to the end of the last.
#pragma once

#include <csignal>
#include <set>
#include <string>
#include <vector>

#include "crnet/dist/supervisor.h"
#include "dist/child_process.h"
#include "dist/reserved_port.h"
#include "dist/signal_inbox.h"

namespace crnet {

class Attempt {
 public:
  /// Starts the processes. Both references have to outlive it.
  Attempt(const SuperviseOptions& options, const std::vector<std::string>& command,
          const SignalInbox& inbox);

  /// Returns when all have ended.
  void run();

  /// 0, or that of the first process that failed.
  [[nodiscard]] int exit_code() const { return exit_code_; }
  /// It failed, and not by a mistake of the user's, who may have ended it.
  [[nodiscard]] bool may_go_on() const { return exit_code_ != 0 && !user_erred_; }
  [[nodiscard]] bool may_be_repeated() const { return may_go_on() && !user_ended_it_; }

  /// Waits after run(); false where the user ends the launch meanwhile.
  [[nodiscard]] bool pause(double seconds);

 private:
  using Clock = SignalInbox::Clock;

  [[nodiscard]] bool is_running() const;
  void send(int signal) const;
  void pass_on(int signal);
  void reap();
  void note_failure(size_t rank, int status);
  void say_what_the_others_have();
  void end_the_others();

  const SuperviseOptions& options_;
  const SignalInbox& inbox_;
  const ReservedPort port_;
  std::vector<ChildProcess> processes_;
  std::set<int> passed_on_;
  int exit_code_ = 0;
  bool user_erred_ = false, user_ended_it_ = false, user_killed_it_ = false;
  // What the processes that still run get next, and when.
  int next_measure_ = SIGTERM;
  Clock::time_point deadline_ = Clock::time_point::max();
  // When those that still run then are told of that.
  Clock::time_point notice_ = Clock::time_point::max();
};

/// One line to the user.
void say(const std::string& message);

}  // namespace crnet
