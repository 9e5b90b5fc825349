#include "train/checkpoint_saver.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <torch/torch.h>
#include <unistd.h>

#include <csignal>
#include <iterator>
#include <optional>

#include "crnet/core/error.h"

namespace crnet {
namespace {

namespace fs = std::filesystem;

// Writes beyond `bytes` fail, as on a full disk.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    handler_ = std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{bytes, before_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;

 private:
  rlimit before_{};
  sighandler_t handler_;
};

class CheckpointSaverTest : public testing::Test {
 protected:
  void SetUp() override {
    root_ = fs::path(testing::TempDir()) / ("crnet_saver_" + std::to_string(getpid()));
    store_.emplace(root_ / "checkpoints", /*keep_last=*/10);
  }
  void TearDown() override { fs::remove_all(root_); }

  [[nodiscard]] CheckpointContent content(int64_t step) {
    CheckpointContent made;
    made.model = whole_pieces({{"weight", weight_}});
    made.optimizer = whole_pieces({{"exp_avg.weight", weight_}});
    made.state.step = step;
    return made;
  }
  static float first_weight(const fs::path& folder) {
    return open_checkpoint(folder).model().load("weight")[0][0].item<float>();
  }

  fs::path root_;
  std::optional<CheckpointStore> store_;
  Group alone_;
  torch::Tensor weight_ = torch::ones({1000, 1000});
};

TEST_F(CheckpointSaverTest, WhatTrainingChangesAfterwardsIsNotSaved) {
  CheckpointSaver saver(alone_, *store_);
  saver.begin(content(1), /*in_background=*/true);
  weight_.fill_(2);
  const auto outcome = saver.wait();
  ASSERT_TRUE(outcome);
  EXPECT_EQ(outcome->failure, "");
  EXPECT_GE(outcome->bytes, 2 * weight_.nbytes());
  EXPECT_GE(outcome->seconds, outcome->wait_seconds);
  EXPECT_EQ(saver.latest(), root_ / "checkpoints" / "step-00000001");
  EXPECT_EQ(first_weight(saver.latest()), 1);
}

TEST_F(CheckpointSaverTest, AnOutcomeIsToldOnce) {
  CheckpointSaver saver(alone_, *store_);
  EXPECT_FALSE(saver.ended());
  EXPECT_FALSE(saver.wait());
  saver.begin(content(1), /*in_background=*/false);
  EXPECT_TRUE(saver.ended());
  EXPECT_FALSE(saver.ended());
  EXPECT_FALSE(saver.wait());
}

TEST_F(CheckpointSaverTest, ASaveUnderWayIsFinishedBeforeTheSaverGoes) {
  { CheckpointSaver(alone_, *store_).begin(content(3), /*in_background=*/true); }
  ASSERT_EQ(store_->list().size(), 1U);
  EXPECT_EQ(first_weight(store_->list()[0]), 1);
}

TEST_F(CheckpointSaverTest, AFailedWriteIsToldLeavesNothingAndTheNextSaveWorks) {
  CheckpointSaver saver(alone_, *store_);
  saver.begin(content(1), /*in_background=*/false);
  {
    const FileSizeLimit limit(1 << 20);
    saver.begin(content(2), /*in_background=*/true);
    const auto outcome = saver.wait();
    ASSERT_TRUE(outcome);
    EXPECT_NE(outcome->failure.find("expected to save the checkpoint of step 2"), std::string::npos)
        << outcome->failure;
    EXPECT_NE(outcome->failure.find("File too large"), std::string::npos) << outcome->failure;
    EXPECT_THROW((void)saver.latest(), Error);
  }
  ASSERT_EQ(store_->list().size(), 1U);
  EXPECT_EQ(std::distance(fs::directory_iterator(root_ / "checkpoints"), {}), 1);
  saver.begin(content(3), /*in_background=*/true);
  EXPECT_EQ(saver.wait()->failure, "");
  EXPECT_EQ(store_->list().size(), 2U);
}

TEST_F(CheckpointSaverTest, AFolderThatCannotBeMadeIsTold) {
  fs::create_directories(root_);
  write_text_atomic(root_ / "checkpoints", "a file");
  CheckpointSaver saver(alone_, *store_);
  saver.begin(content(1), /*in_background=*/true);
  const auto outcome = saver.ended();
  ASSERT_TRUE(outcome);
  EXPECT_NE(outcome->failure.find((root_ / "checkpoints").string()), std::string::npos)
      << outcome->failure;
}

}  // namespace
}  // namespace crnet
