#include "dist/monitor.h"

#include <gtest/gtest.h>

#include <torch/csrc/distributed/c10d/HashStore.hpp>

#include <atomic>
#include <future>
#include <memory>

namespace crnet {
namespace {

constexpr int kPatience = 2;  // beats
using std::chrono::seconds;

class MonitorTest : public testing::Test {
 protected:
  std::unique_ptr<Monitor> monitor(int rank) {
    return std::make_unique<Monitor>(Meeting{store_, {{0, "host-a", 1}, {1, "host-b", 2}}}, rank);
  }
  StorePtr store_ = c10::make_intrusive<c10d::HashStore>();
};

TEST_F(MonitorTest, TheNextProcessIsFoundLostWhenItsBeatsEnd) {
  const auto own = monitor(0);
  auto next = monitor(1);
  next->at_step(7, 0);
  next->writes_reason("");  // now, not with the next beat
  next.reset();
  std::promise<std::string> found;
  own->watch(kPatience, [&](const std::string& text) { found.set_value(text); });
  auto text = found.get_future();
  ASSERT_EQ(text.wait_for(seconds(60)), std::future_status::ready);
  EXPECT_EQ(text.get(), "lost: process 1 on host-b, last seen at step 7");
}

TEST_F(MonitorTest, WhoBeatsOrLeavesIsNotLost) {
  std::atomic<int> calls = 0;
  const auto own = monitor(0);
  auto next = monitor(1);
  for (auto* one : {own.get(), next.get()}) one->watch(kPatience, [&](const auto&) { ++calls; });
  std::this_thread::sleep_for(seconds(kPatience + 3));
  EXPECT_EQ(calls, 0);
  own->writes_reason("");
  next->writes_reason("");
  next.reset();
  std::this_thread::sleep_for(seconds(kPatience + 3));
  EXPECT_EQ(calls, 0);
}

}  // namespace
}  // namespace crnet
