#include "data/prepare_progress.h"

#include <utility>

#include "crnet/core/format.h"
#include "crnet/core/log.h"

namespace crnet {

PrepareProgress::PrepareProgress(std::string task, int64_t total_bytes)
    : task_(std::move(task)), total_bytes_(total_bytes) {}

void PrepareProgress::update(int64_t done_bytes) {
  using namespace std::chrono_literals;
  const bool terminal = StatusLine::is_terminal();
  const auto now = Clock::now();
  if (now - shown_ < (terminal ? Clock::duration(200ms) : Clock::duration(10s))) return;
  shown_ = now;
  const auto text = line(done_bytes, std::chrono::duration<double>(now - start_).count());
  if (terminal) {
    status_.update(text);
  } else {
    log::info(text);
  }
}

std::string PrepareProgress::line(int64_t done_bytes, double seconds) const {
  constexpr double kMega = 1e6;
  const double done = static_cast<double>(done_bytes), total = static_cast<double>(total_bytes_);
  const double rate = done / seconds;
  auto text = format("%s  %.1f", task_.c_str(), done / kMega);
  // Pipes have no size.
  if (done > total) return text + format(" MB  %.1f MB/s", rate / kMega);
  const auto left = rate > 0 ? format_duration((total - done) / rate) : std::string("?");
  return text + format(" of %.1f MB (%.0f %%)  %.1f MB/s  %s left", total / kMega,
                       100 * done / total, rate / kMega, left.c_str());
}

}  // namespace crnet
