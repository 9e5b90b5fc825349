// How far a pass over the text has come.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "crnet/core/status_line.h"

namespace crnet {

/// Shows MB done and in all, MB/s and the time left: on a terminal as a status line five times a
/// second, else as a line of the log every ten seconds.
class PrepareProgress {
 public:
  PrepareProgress(std::string task, int64_t total_bytes);

  void update(int64_t done_bytes);

 private:
  using Clock = std::chrono::steady_clock;

  [[nodiscard]] std::string line(int64_t done_bytes, double seconds) const;

  std::string task_;
  int64_t total_bytes_;
  Clock::time_point start_ = Clock::now();
  Clock::time_point shown_ = start_;
  StatusLine status_;
};

}  // namespace crnet
