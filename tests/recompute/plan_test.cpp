// Which blocks a strategy keeps outputs of, and what it refuses.
#include "crnet/recompute/plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "crnet/core/error.h"

namespace crnet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

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
  EXPECT_THAT(kept(replay, 9), ElementsAre(1, 5, 8, 9));
  EXPECT_THAT(kept(replay, 1), ElementsAre(1));
  EXPECT_THAT(kept(config(RecomputeStrategy::kReplay, int64_t{4}), 9), ElementsAre(1, 5, 9));
}

TEST(RecomputePlan, FullKeepsWhatABlockAboveReads) {
  EXPECT_THAT(kept(config(RecomputeStrategy::kFull), 3), ElementsAre(1, 2));
  EXPECT_THAT(kept(config(RecomputeStrategy::kColaM), 3), ElementsAre());
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

// Y of how many blocks are in memory, at most, when the blocks of one segment are rebuilt.
int64_t most_held(const std::vector<int64_t>& anchors, int64_t num_blocks) {
  int64_t most = 0;
  for (size_t i = 0; i < anchors.size(); ++i) {
    const int64_t end = i + 1 < anchors.size() ? anchors[i + 1] : num_blocks + 1;
    most = std::max(most, static_cast<int64_t>(i) + end - anchors[i]);
  }
  return most;
}

TEST(RecomputePlan, ReplayHoldsAsFewOutputsAsThereCanBe) {
  for (int64_t num_blocks = 1; num_blocks <= 50; ++num_blocks) {
    const int64_t least = least_held_outputs(num_blocks);
    for (int64_t held = 1; held <= num_blocks; ++held) {
      const auto anchors = replay_anchors(num_blocks, held);
      EXPECT_EQ(most_held(anchors, num_blocks), std::max(held, least))
          << num_blocks << " blocks, " << held;
      EXPECT_EQ(anchors.front(), 1);
      EXPECT_TRUE(std::is_sorted(anchors.begin(), anchors.end()));
      EXPECT_LE(anchors.back(), num_blocks);
    }
  }
  EXPECT_EQ(least_held_outputs(32), 8);  // 8 + 7 + 6 + 5 + … ≥ 32; equal segments need 10
}

TEST(RecomputePlan, MemoryBudgetsAreReadWithTheirUnits) {
  EXPECT_EQ(parse_memory_budget("fit"), 0);
  EXPECT_EQ(parse_memory_budget("60GiB"), int64_t{60} << 30);
  EXPECT_EQ(parse_memory_budget("1.5 GiB"), int64_t{3} << 29);
  EXPECT_EQ(parse_memory_budget("80GB"), 80'000'000'000);
  EXPECT_EQ(parse_memory_budget("4096"), 4096);
  for (const char* wrong : {"", "GiB", "60 gibibytes", "-1GiB", "0", "nan", "1e30GiB"}) {
    EXPECT_THROW(static_cast<void>(parse_memory_budget(wrong)), UsageError) << wrong;
  }
}

TEST(RecomputePlan, IsSaidInWords) {
  EXPECT_EQ(describe(make_plan(config(RecomputeStrategy::kNone), 3)), "everything kept");
  EXPECT_EQ(describe(make_plan(config(RecomputeStrategy::kInverse, int64_t{2}), 5)),
            "blocks 1-5 rebuilt from X A and Y of 3, 5, inverted");
  EXPECT_EQ(describe(make_plan(config(RecomputeStrategy::kFull), 3)), "blocks 1-3 run again");
  auto mixed = make_plan(config(RecomputeStrategy::kReplay, int64_t{2}), 3);
  mixed.blocks.push_back({.graph = true});
  EXPECT_EQ(describe(mixed), "blocks 1-3 rebuilt from X A and Y of 1, 3, replayed; block 4 kept");
}

}  // namespace
}  // namespace crnet
