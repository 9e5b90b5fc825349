// Seeds LibTorch's generator before every test: by default it starts anywhere, and a test that
// fails once in twenty runs is worse than one that always does.
#include <gtest/gtest.h>
#include <torch/torch.h>

namespace {

class Seed : public testing::EmptyTestEventListener {
  void OnTestStart(const testing::TestInfo& /*test*/) override { torch::manual_seed(1); }
};

// The listeners own it.
[[maybe_unused]] const bool kAppended = [] {
  testing::UnitTest::GetInstance()->listeners().Append(std::make_unique<Seed>().release());
  return true;
}();

}  // namespace
