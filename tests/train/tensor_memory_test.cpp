// How blocks are given out, used again and handed back.
#include "train/tensor_memory.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <thread>
#include <vector>

namespace crnet {
namespace {

constexpr size_t kMiB = 1 << 20;

char* address(const c10::DataPtr& block) {
  return static_cast<char*>(block.get());
}

// Sanitizers watch single blocks, so there is no range of our own.
bool gives_from_a_range() {
  char* first = nullptr;
  {
    const auto block = tensor_memory().allocate(kMiB);
    first = address(block);
  }
  return address(tensor_memory().allocate(kMiB)) == first;
}

int64_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  int64_t total = 0, resident = 0;
  file >> total >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

TEST(TensorMemory, BlocksAreApartAndAligned) {
  std::vector<c10::DataPtr> blocks;
  const std::vector<size_t> sizes = {0, 1, 1000, 40000, 65536, kMiB, kMiB + 1, 3 * kMiB};
  for (const size_t size : sizes) blocks.push_back(tensor_memory().allocate(size));
  for (size_t i = 0; i < blocks.size(); ++i) {
    if (sizes[i] > 0) std::memset(address(blocks[i]), static_cast<int>(i), sizes[i]);
  }
  for (size_t i = 0; i < blocks.size(); ++i) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(address(blocks[i])) % 64, 0u);
    for (size_t j = 0; j < sizes[i]; ++j) ASSERT_EQ(address(blocks[i])[j], static_cast<char>(i));
  }
}

TEST(TensorMemory, FillsTheLowestHoleThatIsLargeEnough) {
  if (!gives_from_a_range()) GTEST_SKIP() << "every block is LibTorch's own here";
  std::vector<c10::DataPtr> blocks;
  for (int i = 0; i < 6; ++i) blocks.push_back(tensor_memory().allocate(kMiB));
  char* const second = address(blocks[1]);
  blocks[1].clear();
  blocks[3].clear();
  blocks[2].clear();  // closes the gap between the two
  const auto small = tensor_memory().allocate(kMiB / 2);
  EXPECT_EQ(address(small), second);
  const auto large = tensor_memory().allocate(2 * kMiB);
  EXPECT_GT(address(large), second);
  EXPECT_LT(address(large), address(blocks[4]));
  // What stands last is given back to the rest of the range.
  char* const last = address(blocks[5]);
  blocks[5].clear();
  EXPECT_EQ(address(tensor_memory().allocate(100 * kMiB)), last);
}

TEST(TensorMemory, ThreadsMayAllAskAndFree) {
  constexpr int kThreads = 4, kTurns = 2000;
  std::vector<std::thread> threads;
  std::vector<char> kept(kThreads, 1);
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&kept, t] {
      std::vector<c10::DataPtr> blocks(8);
      std::vector<size_t> sizes(8, 0);
      for (int turn = 0; turn < kTurns; ++turn) {
        const auto i = static_cast<size_t>(turn * 5 % 8);
        const char value = static_cast<char>(t * 8 + static_cast<int>(i));
        for (size_t j = 0; j < sizes[i]; j += 997) kept[t] &= address(blocks[i])[j] == value;
        sizes[i] = 20000 + static_cast<size_t>(turn * 7919 % 90000);
        blocks[i] = tensor_memory().allocate(sizes[i]);
        std::memset(address(blocks[i]), value, sizes[i]);
      }
    });
  }
  for (auto& thread : threads) thread.join();
  for (const char all : kept) EXPECT_TRUE(all);
}

TEST(TensorMemory, HandsFreePagesBack) {
  if (!gives_from_a_range()) GTEST_SKIP() << "every block is LibTorch's own here";
  constexpr size_t kSize = 64 * kMiB;
  auto below = tensor_memory().allocate(kSize);
  const auto above = tensor_memory().allocate(kMiB);
  std::memset(address(below), 1, kSize);
  std::memset(address(above), 2, kMiB);
  below.clear();
  const int64_t before = resident_bytes();
  return_free_tensor_memory();
  EXPECT_LT(resident_bytes(), before - static_cast<int64_t>(kSize) * 3 / 4);
  EXPECT_EQ(address(above)[kMiB - 1], 2);
  const auto again = tensor_memory().allocate(kSize);
  std::memset(address(again), 3, kSize);
  EXPECT_EQ(address(above)[0], 2);
}

}  // namespace
}  // namespace crnet
