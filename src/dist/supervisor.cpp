#include "crnet/dist/supervisor.h"

#include <algorithm>
#include <cmath>

#include "crnet/core/error.h"
#include "crnet/core/format.h"
#include "dist/attempt.h"
#include "dist/signal_inbox.h"

namespace crnet {
namespace {

constexpr int kMostProcesses = 1024;
constexpr double kLongestPause = 30;  // seconds

// Before restart 1, 2, …: it doubles.
double pause_before(int restart, const SuperviseOptions& options) {
  return std::min(std::ldexp(options.restart_pause, restart - 1), kLongestPause);
}

// True where the processes are to be started anew, once the time for it has come.
bool is_restarted(Attempt& attempt, int restart, const SuperviseOptions& options) {
  if (!attempt.may_be_repeated() || options.max_restarts == 0) return false;
  if (restart > options.max_restarts) {
    say(format("no restart is left (--max-restarts %d)", options.max_restarts));
    return false;
  }
  const double pause = pause_before(restart, options);
  say(format("restart %d of %d in %s", restart, options.max_restarts,
             format_duration(pause).c_str()));
  return attempt.pause(pause);
}

}  // namespace

void check_numbers(const SuperviseOptions& options) {
  if (options.num_processes < 1 || options.num_processes > kMostProcesses) {
    throw UsageError(format("[launch] --nproc: expected 1 to %d processes, got %d", kMostProcesses,
                            options.num_processes));
  }
  if (options.max_restarts < 0) {
    throw UsageError(
        format("[launch] --max-restarts: expected at least 0, got %d", options.max_restarts));
  }
}

int supervise(const SuperviseOptions& options) {
  check_numbers(options);
  if (options.command.empty()) throw UsageError("[launch] expected a command, got none");
  const SignalInbox inbox;
  const auto& again = options.restart_command.empty() ? options.command : options.restart_command;
  for (int restarts = 0;; ++restarts) {
    Attempt attempt(options, restarts == 0 ? options.command : again, inbox);
    attempt.run();
    if (is_restarted(attempt, restarts + 1, options)) continue;
    if (attempt.may_go_on() && !options.advice.empty()) say(options.advice);
    return attempt.exit_code();
  }
}

}  // namespace crnet
