// Which blocks a strategy keeps outputs of, and what it refuses.
#include "crnet/recompute/plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "crnet/core/error.h"

namespace crnet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

RecomputeConfig config(RecomputeStrategy strategy,
                       IntegerOrListOrMap anchors = std::vector<int64_t>{}) {
  RecomputeConfig config;
  config.strategy = strategy;
  config.anchors = std::move(anchors);
  return config;
}

// Blocks, from 1, whose outputs are kept.
std::vector<int64_t> kept(const RecomputeConfig& config, int64_t num_blocks) {
  const auto plan = make_plan(config, num_blocks);
  std::vector<int64_t> blocks;
  for (size_t i = 0; i < plan.blocks.size(); ++i) {
    if (plan.blocks[i].outputs) blocks.push_back(static_cast<int64_t>(i) + 1);
  }
  return blocks;
}

std::string error_of(const RecomputeConfig& config, int64_t num_blocks) {
  try {
    static_cast<void>(make_plan(config, num_blocks));
  } catch (const UsageError& error) {
    return error.what();
  }
  return "no error";
}

TEST(RecomputePlan, InverseKeepsTheLastBlockAndEveryEighthBelow) {
  const auto inverse = config(RecomputeStrategy::kInverse);
  EXPECT_THAT(kept(inverse, 32), ElementsAre(8, 16, 24, 32));
  EXPECT_THAT(kept(inverse, 12), ElementsAre(4, 12));
  EXPECT_THAT(kept(inverse, 9), ElementsAre(9));  // never block 1
  EXPECT_THAT(kept(inverse, 1), ElementsAre(1));
  EXPECT_THAT(kept(config(RecomputeStrategy::kInverse, int64_t{3}), 7), ElementsAre(4, 7));
}

TEST(RecomputePlan, ReplayKeepsTheStartOfAboutSqrtSegments) {
  const auto replay = config(RecomputeStrategy::kReplay);
  EXPECT_THAT(kept(replay, 9), ElementsAre(1, 4, 7));
  EXPECT_THAT(kept(replay, 1), ElementsAre(1));
  EXPECT_THAT(kept(config(RecomputeStrategy::kReplay, int64_t{4}), 9), ElementsAre(1, 5, 9));
}

TEST(RecomputePlan, FullKeepsWhatABlockAboveReads) {
  EXPECT_THAT(kept(config(RecomputeStrategy::kFull), 3), ElementsAre(1, 2));
  EXPECT_THAT(kept(config(RecomputeStrategy::kColaM), 3), IsEmpty());
}

TEST(RecomputePlan, AnchorsThatCannotServeAreRefusedWithTheRemedy) {
  using List = std::vector<int64_t>;
  EXPECT_THAT(error_of(config(RecomputeStrategy::kInverse, List{4, 9}), 8),
              HasSubstr("recompute.anchors: expected blocks from 1 to 8, got 9"));
  EXPECT_THAT(error_of(config(RecomputeStrategy::kInverse, List{4}), 8),
              HasSubstr("expected the last block (8) among them"));
  EXPECT_THAT(error_of(config(RecomputeStrategy::kInverse, List{1, 8}), 8),
              HasSubstr("got 1, whose outputs"));
  EXPECT_THAT(error_of(config(RecomputeStrategy::kReplay, int64_t{0}), 8),
              HasSubstr("recompute.anchors: expected a stride of at least 1, got 0"));
  EXPECT_THAT(error_of(config(RecomputeStrategy::kReplay, List{4}), 8),
              HasSubstr("expected block 1 among them"));
}

}  // namespace
}  // namespace crnet
