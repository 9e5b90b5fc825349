#include <gtest/gtest.h>
#include <sys/resource.h>

#include <vector>

#include "crnet/data/shard.h"
#include "data/test_files.h"

namespace crnet {
namespace {

TEST(ShardWriterLimits, FinishedShardsHoldNoFileOpen) {
  const test::TempFolder folder;
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit few{64, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &few), 0);
  std::vector<ShardWriter> writers;
  for (int shard = 0; shard < 100; ++shard) {
    writers.emplace_back(folder / (std::to_string(shard) + ".bin"), 100, std::string(16, 'a'));
    writers.back().write(std::vector<int32_t>{1, 2, 3});
    writers.back().finish();
  }
  for (auto& writer : writers) writer.publish();
  EXPECT_EQ(Shard::open(folder / "99.bin").tokens(), 3);
  setrlimit(RLIMIT_NOFILE, &before);
}

}  // namespace
}  // namespace crnet
