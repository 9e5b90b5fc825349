// One process that was started from here, and does not outlive what started it.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace crnet {

/// What a process runs.
struct Program {
  std::string executable;
  std::vector<std::string> arguments;    ///< argv, [0] included.
  std::vector<std::string> environment;  ///< NAME=value each.
};

/// Runs in a process group of its own, so that signals come from here and not from the terminal
/// too.
class ChildProcess {
 public:
  /// Returns when the program runs; throws crnet::Error where the system refuses.
  explicit ChildProcess(const Program& program);
  ~ChildProcess();  ///< Kills it and its group, where it runs still.
  ChildProcess(ChildProcess&& other) noexcept : pid_(std::exchange(other.pid_, 0)) {}
  ChildProcess& operator=(ChildProcess&&) = delete;

  [[nodiscard]] bool is_running() const { return pid_ != 0; }

  /// To its whole group, as a terminal does.
  void send(int signal) const;

  /// The status, as waitpid gives it, once after it has ended. What it left in its group is killed.
  [[nodiscard]] std::optional<int> poll();

 private:
  pid_t pid_ = 0;
};

}  // namespace crnet
