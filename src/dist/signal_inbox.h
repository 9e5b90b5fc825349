// Signals taken one by one, when asked for, instead of by a handler.
#pragma once

#include <chrono>
#include <csignal>

namespace crnet {

/// While one lives, the signals that a supervisor passes on, and SIGCHLD, wait for it instead of
/// doing what they do. Those that this process ignores stay ignored: nohup, a shell's background
/// job. At most one lives at a time, in a process of one thread.
class SignalInbox {
 public:
  using Clock = std::chrono::steady_clock;

  SignalInbox();
  ~SignalInbox();
  SignalInbox(const SignalInbox&) = delete;
  SignalInbox& operator=(const SignalInbox&) = delete;

  /// The next signal, or 0 where none comes before `until`.
  [[nodiscard]] int wait(Clock::time_point until) const;

 private:
  sigset_t awaited_{}, former_mask_{};
  struct sigaction former_child_action_ {};
};

}  // namespace crnet
