// How blocks are given out, used again and handed back.
#include "train/tensor_memory.h"

#include <c10/core/CPUAllocator.h>
#include <gtest/gtest.h>
#include <torch/types.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <fstream>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "crnet/train/device.h"

namespace crnet {
namespace {

constexpr size_t kMiB = 1 << 20;

char* address(const c10::DataPtr& block) {
  return static_cast<char*>(block.get());
}

#if defined(CRNET_SANITIZE)
constexpr bool kHasRange = false;
#else
constexpr bool kHasRange = true;
#endif

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

TEST(TensorMemory, LargeBlocksAreOfTheRange) {
  EXPECT_EQ(is_in_tensor_memory(address(tensor_memory().allocate(kMiB))), kHasRange);
  EXPECT_FALSE(is_in_tensor_memory(address(tensor_memory().allocate(1000))));
  // What no machine has is refused as ever, and loses nothing.
  EXPECT_ANY_THROW(tensor_memory().allocate(size_t{1} << 60));
  EXPECT_ANY_THROW(tensor_memory().allocate(SIZE_MAX - 1));
  EXPECT_EQ(is_in_tensor_memory(address(tensor_memory().allocate(kMiB))), kHasRange);
}

TEST(TensorMemory, HoldsTensorsOfAProgramThatAsksForIt) {
  keep_freed_memory();
  const auto tensor = torch::empty({1 << 20});
  c10::SetCPUAllocator(c10::GetDefaultCPUAllocator());
  EXPECT_EQ(is_in_tensor_memory(tensor.const_data_ptr()), kHasRange);
}

TEST(TensorMemory, FillsTheLowestHoleThatIsLargeEnough) {
  if (!kHasRange) GTEST_SKIP() << "sanitizers watch single blocks";
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
  std::mutex mutex;
  c10::DataPtr passed;
  const auto pass_on = [&](c10::DataPtr block) {
    const std::lock_guard lock(mutex);
    std::swap(passed, block);
  };
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      // Every other one is freed by another thread.
      std::vector<c10::DataPtr> blocks(8);
      std::vector<size_t> sizes(8, 0);
      for (int turn = 0; turn < kTurns; ++turn) {
        const auto i = static_cast<size_t>(turn * 5 % 8);
        const char value = static_cast<char>(t * 8 + static_cast<int>(i));
        for (size_t j = 0; j < sizes[i]; j += 997) kept[t] &= address(blocks[i])[j] == value;
        sizes[i] = 20000 + static_cast<size_t>(turn * 7919 % 90000);
        if (turn % 2 == 0) pass_on(std::move(blocks[i]));
        blocks[i] = tensor_memory().allocate(sizes[i]);
        std::memset(address(blocks[i]), value, sizes[i]);
      }
    });
  }
  for (auto& thread : threads) thread.join();
  for (const char all : kept) EXPECT_TRUE(all);
}

TEST(TensorMemory, HandsFreePagesBack) {
  if (!kHasRange) GTEST_SKIP() << "sanitizers watch single blocks";
  constexpr size_t kSize = 64 * kMiB;
  auto below = tensor_memory().allocate(kSize);
  const auto above = tensor_memory().allocate(kMiB);
  std::memset(address(below), 1, kSize);
  std::memset(address(above), 2, kMiB);
  below.clear();
  // And what is free above all that is in use.
  {
    const auto last = tensor_memory().allocate(2 * kSize);
    std::memset(address(last), 4, 2 * kSize);
  }
  const int64_t before = resident_bytes();
  return_free_tensor_memory();
  EXPECT_LT(resident_bytes(), before - 3 * static_cast<int64_t>(kSize) * 3 / 4);
  EXPECT_EQ(address(above)[kMiB - 1], 2);
  const auto again = tensor_memory().allocate(kSize);
  std::memset(address(again), 3, kSize);
  EXPECT_EQ(address(above)[0], 2);
}

}  // namespace
}  // namespace crnet
