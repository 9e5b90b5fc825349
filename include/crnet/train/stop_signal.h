// Ctrl-C, and a cluster's SIGTERM or SIGUSR1, turned into a question that the training loop asks.
#pragma once

#include <string_view>

namespace crnet {

/// While one lives, SIGINT, SIGTERM and SIGUSR1 are noted instead of ending the process; another
/// one, two seconds later or more, ends it at once. At most one lives at a time; the former
/// handlers come back at its end.
class StopSignal {
 public:
  /// `answer`, of static lifetime, goes to stderr as the signal is noted. With one SIGPIPE, if
  /// nobody handles it, is ignored: Ctrl-C ends what reads stderr as well (`2>&1 | tee log`), and
  /// writing there must not end the process then. Empty: neither.
  explicit StopSignal(std::string_view answer = {});
  ~StopSignal();
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;

  /// The signal that came, or 0.
  [[nodiscard]] static int received();
};

}  // namespace crnet
