#include "crnet/train/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <csignal>

#include "crnet/core/error.h"
#include "crnet/core/file.h"
#include "data/test_files.h"

namespace crnet {
namespace {

using testing::HasSubstr;

// As on a full disk, where a file that may not grow is a file that cannot.
class SizeLimit {
 public:
  explicit SizeLimit(rlim_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit tight{bytes, before_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &tight);
  }
  ~SizeLimit() {
    setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }
  SizeLimit(const SizeLimit&) = delete;
  SizeLimit& operator=(const SizeLimit&) = delete;

 private:
  rlimit before_{};
  void (*handler_)(int);
};

EvalMetrics validation_after(int64_t step) {
  return {step, /*loss=*/6.5, /*perplexity=*/665, /*tokens=*/640};
}

int64_t count_lines(const std::string& text) {
  return std::count(text.begin(), text.end(), '\n');
}

TEST(MetricsFile, LinesThatFindNoRoomAreWrittenWithALaterOne) {
  const test::TempFolder folder;
  const auto path = folder / "metrics.jsonl";
  MetricsFile metrics(path, /*last_step=*/-1);
  metrics.write(validation_after(1));
  const auto whole = read_text(path);
  {
    const SizeLimit limit(whole.size() + 10);
    metrics.write(validation_after(2));
    metrics.write(validation_after(3));
    EXPECT_EQ(read_text(path).size(), whole.size() + 10);
    EXPECT_THROW(metrics.flush(), Error);
  }
  metrics.write(validation_after(4));
  EXPECT_EQ(count_lines(read_text(path)), 4);
  EXPECT_THAT(read_text(path), HasSubstr("\n{\"kind\":\"validation\",\"step\":2,"));
}

}  // namespace
}  // namespace crnet
