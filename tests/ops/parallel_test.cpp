#include "ops/parallel.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <array>
#include <atomic>
#include <latch>
#include <mutex>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

namespace crnet {
namespace {

class ParallelFor : public ::testing::Test {
 protected:
  void SetUp() override { at::set_num_threads(2); }
  void TearDown() override { at::set_num_threads(threads_); }

 private:
  int threads_ = at::get_num_threads();
};

TEST_F(ParallelFor, RunsInAsManyThreadsAsLibTorchHas) {
  std::mutex mutex;
  std::set<std::thread::id> threads;
  parallel_for(0, 2, 1, [&](int64_t, int64_t) {
    const std::lock_guard lock(mutex);
    threads.insert(std::this_thread::get_id());
  });
  EXPECT_EQ(threads.size(), 2u);
}

TEST_F(ParallelFor, VisitsEveryIndexOnce) {
  for (const int64_t count : {0, 1, 2, 7, 1000}) {
    std::vector<std::atomic<int>> visits(static_cast<size_t>(count));
    parallel_for(0, count, 3, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) ++visits[static_cast<size_t>(i)];
    });
    for (const auto& n : visits) EXPECT_EQ(n, 1);
  }
}

TEST_F(ParallelFor, ThrowsWhatItsBodyThrows) {
  const auto fail = [](int64_t, int64_t) { throw std::runtime_error("no"); };
  EXPECT_THROW(parallel_for(0, 2, 1, fail), std::runtime_error);
}

// Each of two tasks waits for the other: they end only if two threads have one each.
TEST_F(ParallelFor, RunsTasksAtTheSameTimeEachWithItsOwnScratch) {
  std::latch both(2);
  std::array<float*, 2> scratches = {};
  for_each_task(2, 16, [&](int64_t task, float* scratch) {
    scratches[static_cast<size_t>(task)] = scratch;
    both.arrive_and_wait();
  });
  EXPECT_NE(scratches[0], scratches[1]);
  EXPECT_THROW(for_each_task(2, 1, [](int64_t, float*) { throw std::runtime_error("no"); }),
               std::runtime_error);
}

TEST_F(ParallelFor, GivesEveryTaskToOneThreadThatHasScratch) {
  std::vector<std::atomic<int>> visits(100);
  for_each_task(100, 17, [&](int64_t task, float* scratch) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(scratch) % 64, 0u);
    for (int i = 0; i < 17; ++i) scratch[i] = static_cast<float>(task);
    if (scratch[16] == static_cast<float>(task)) ++visits[static_cast<size_t>(task)];
  });
  for (const auto& n : visits) EXPECT_EQ(n, 1);
  for_each_task(0, 1, [](int64_t, float*) { FAIL() << "there is no task"; });
}

}  // namespace
}  // namespace crnet
