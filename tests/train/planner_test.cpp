// Which plans are found, and what is chosen within a budget. Rates are made up: a machine's own
// would move the choice from run to run.
#include "crnet/train/planner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "crnet/core/error.h"
#include "crnet/model/costs.h"
#include "crnet/train/plan_plot.h"

namespace crnet {
namespace {

using ::testing::HasSubstr;

constexpr MachineRates kRates{.products = 4e11,
                              .low_rank_products = 3e11,
                              .attention_forward = 5e10,
                              .attention_backward = 4e10,
                              .memory = 2e10};

PlannerInput input_for(const std::string& model, const std::vector<std::string>& settings = {}) {
  return {load_run_config(CRNET_SOURCE_DIR "/configs/models/" + model + ".yaml", settings).config,
          true, kRates};
}

TEST(Planner, EveryStrategyOfTheArchitectureIsEstimated) {
  const auto names = [](const PlannerInput& input) {
    std::vector<std::string> result;
    for (const auto& estimate : estimate_strategies(input)) result.push_back(estimate.name);
    return result;
  };
  EXPECT_THAT(names(input_for("crnet-60m")),
              ::testing::ElementsAre("none", "full", "inverse", "replay"));
  EXPECT_THAT(names(input_for("cola-60m")), ::testing::ElementsAre("none", "full", "cola_m"));
  EXPECT_THAT(names(input_for("llama-60m")), ::testing::ElementsAre("none", "full"));
}

// LLaMA-2 7B, r = 512, 16 x 2048 tokens: the accounting of arXiv 2509.18993.
TEST(Planner, AgreesWithThePublishedAccounting) {
  const auto input =
      input_for("crnet-7b", {"model.r=512", "train.micro_batch=16", "data.sequence_length=2048"});
  const InverseAccounting counts = account_for_inverse(input);
  constexpr double kGiB = 0x1p30;
  EXPECT_NEAR(static_cast<double>(counts.as_published) / kGiB, 23.4, 0.05);
  EXPECT_NEAR(static_cast<double>(counts.all_low) / kGiB, 25.4, 0.05);
  EXPECT_NEAR(static_cast<double>(counts.kept) / kGiB, 25.2, 0.05);

  // Against X and all of Y of every block, and against every tensor of the forward pass, those that
  // even `none` makes again included.
  const auto strategies = estimate_strategies(input);
  const double plain = 2.0 * 16 * 2048 * 32 * (4096 + 5 * 4096 + 2 * 11008);
  const double everything = 2.0 * 16 * 2048 * 32 * (12 * 4096 + 3 * 11008 + 7 * 512);
  const auto peak = [&](size_t i) { return static_cast<double>(strategies[i].memory.stored_peak); };
  EXPECT_LE(peak(2), 0.30 * plain);
  EXPECT_LE(peak(2), 0.20 * everything);
  EXPECT_LE(peak(3), 0.50 * plain);
  EXPECT_LE(peak(3), 0.30 * everything);
}

TEST(Planner, RecomputationIsAFractionOfPlainCheckpointing) {
  const auto input = input_for("crnet-7b", {"model.r=512", "data.sequence_length=2048"});
  const auto strategies = estimate_strategies(input);
  const auto dense = dense_equivalent(input.config.model);
  RecomputeConfig plain;
  plain.strategy = RecomputeStrategy::kFull;
  const auto flops_again = [](const ModelConfig& model, const RecomputePlan& plan) {
    return count_recompute(model, 2048, plan).total();
  };
  const double checkpointing = flops_again(dense, make_plan(plain, dense.num_layers));
  for (const size_t i : {2, 3}) {
    EXPECT_LE(flops_again(input.config.model, strategies[i].plan), 0.326 * checkpointing);
  }
}

TEST(Planner, NoPlanOfTheFrontIsBeaten) {
  for (const char* model : {"crnet-130m", "cola-130m", "llama-130m"}) {
    const auto input = input_for(model, {"train.micro_batch=32"});
    const auto front = plan_front(input, 1000);
    ASSERT_GT(front.size(), 2u);
    for (size_t i = 1; i < front.size(); ++i) {
      EXPECT_GT(front[i].memory.peak, front[i - 1].memory.peak);
      EXPECT_LT(front[i].seconds, front[i - 1].seconds);
    }
    EXPECT_FALSE(front.back().plan.is_active()) << "the fastest keeps everything";
    EXPECT_EQ(plan_front(input, 5).size(), 5u);
  }
}

TEST(Planner, MoreMemoryNeverMeansASlowerPlan) {
  const auto input = input_for("crnet-60m");
  const auto strategies = estimate_strategies(input);
  const int64_t everything = strategies[0].memory.peak;
  double seconds = std::numeric_limits<double>::infinity();
  for (int64_t budget = strategies[3].memory.peak; budget <= everything;
       budget += everything / 50) {
    const auto chosen = choose_plan(input, budget);
    EXPECT_LE(chosen.memory.peak, budget);
    EXPECT_LE(chosen.seconds, seconds);
    EXPECT_FALSE(chosen.plan.inverts) << "replay fits";
    seconds = chosen.seconds;
  }
  EXPECT_FALSE(choose_plan(input, everything).plan.is_active());
}

TEST(Planner, InvertsOnlyWhereNothingExactFitsAndBetaAllowsIt) {
  // r is small and the batch large, so that anchors weigh.
  const std::vector<std::string> settings = {"model.r=8", "train.micro_batch=64",
                                             "model.vocab_size=1000"};
  const auto input = input_for("crnet-350m", settings);
  int64_t least_exact = std::numeric_limits<int64_t>::max(), least = least_exact;
  for (const auto& plan : plan_front(input, 1000)) {
    least = std::min(least, plan.memory.peak);
    if (!plan.plan.inverts) least_exact = std::min(least_exact, plan.memory.peak);
  }
  ASSERT_LT(least, least_exact);
  EXPECT_TRUE(choose_plan(input, least).plan.inverts);
  auto growing = input;
  growing.config.model.beta_init = 0.1;  // 1/c = 10 in every block
  EXPECT_THROW(static_cast<void>(choose_plan(growing, least)), UsageError);
}

TEST(Planner, OnAGpuAttentionIsKeptInBf16Alone) {
  auto input = input_for("crnet-60m");
  const auto keeps_attention = [&] {
    const auto front = plan_front(input, 1000);
    return std::any_of(front.begin(), front.end(), [](const PlanEstimate& estimate) {
      return estimate.memory.activations.attention > 0;
    });
  };
  for (const bool bf16 : {true, false}) {
    input.bf16 = bf16;
    input.device = torch::kCPU;
    EXPECT_TRUE(keeps_attention());
    input.device = torch::kCUDA;
    EXPECT_EQ(keeps_attention(), bf16);
  }
}

TEST(Planner, KeepsAttentionInAsManyBlocksAsFit) {
  const auto input = input_for("crnet-130m");
  const auto front = plan_front(input, 1000);
  const auto kept = [](const PlanEstimate& estimate) {
    const auto& blocks = estimate.plan.blocks;
    return std::count_if(blocks.begin(), blocks.end(), [](auto& b) { return b.attention; });
  };
  const auto rebuilt = [](const PlanEstimate& estimate) {
    const auto& blocks = estimate.plan.blocks;
    return std::count_if(blocks.begin(), blocks.end(), [](auto& b) { return !b.graph; });
  };
  EXPECT_TRUE(std::any_of(front.begin(), front.end(), [&](const PlanEstimate& estimate) {
    return kept(estimate) > 0 && kept(estimate) < rebuilt(estimate);
  }));
  for (const auto& estimate : front) {  // those at the top are let go first
    const auto& blocks = estimate.plan.blocks;
    for (size_t i = 1; i < blocks.size(); ++i) {
      EXPECT_TRUE(!blocks[i - 1].attention || blocks[i].attention || blocks[i].graph);
    }
  }
}

std::string refusal(const PlannerInput& input, int64_t budget) {
  try {
    static_cast<void>(choose_plan(input, budget));
  } catch (const UsageError& error) {
    return error.what();
  }
  return "no error";
}

TEST(Planner, ABudgetThatNothingMeetsIsRefusedWithTheRemedy) {
  const auto input = input_for("crnet-60m", {"train.micro_batch=64"});
  const int64_t least = plan_front(input).front().memory.peak;
  const auto text = refusal(input, least - 1);
  EXPECT_THAT(text, HasSubstr("recompute.memory_budget: expected at least"));
  EXPECT_THAT(text, HasSubstr("train.micro_batch 64 -> 32 fits in"));
  EXPECT_THAT(text, HasSubstr("train.global_batch_tokens 16384"));
  EXPECT_THAT(refusal(input, 1 << 20), HasSubstr("even train.micro_batch 1 needs"));
}

TEST(Planner, CountsWhatOtherProcessesTakeAndSpare) {
  auto alone = input_for("crnet-60m", {"train.micro_batch=32"});
  auto replicated = alone, split = alone;
  replicated.num_processes = split.num_processes = 8;
  split.config.dist.shard = Sharding::kParameters;
  const auto peak = [](const PlannerInput& input) {
    return estimate_strategies(input)[0].memory.peak;
  };
  // The Reducer's buckets are there while activations are, gradients of one process come later.
  EXPECT_GT(peak(replicated), peak(alone));
  EXPECT_LT(peak(split), peak(alone));
  const int64_t budget = peak(alone);
  EXPECT_FALSE(choose_plan(alone, budget).plan.is_active());
  EXPECT_TRUE(choose_plan(replicated, budget).plan.is_active());
}

TEST(Planner, AccumulatesAsOftenAsTheProcessesLeaveIt) {
  auto input = input_for("crnet-60m", {"train.global_batch_tokens=16384"});
  const auto gradients = [&](int num_processes) {
    input.num_processes = num_processes;
    return estimate_strategies(input)[0].memory.gradients;
  };
  const int64_t tokens = input.config.micro_batch_tokens();
  ASSERT_EQ(16384 % (2 * tokens), 0);
  // Sums of earlier micro-batches beside the buckets, unless one micro-batch is all.
  EXPECT_EQ(gradients(2), 2 * gradients(static_cast<int>(16384 / tokens)));
}

TEST(Planner, ThePictureNamesEveryStrategy) {
  const auto input = input_for("crnet-60m");
  const auto svg = render_plan_svg(estimate_strategies(input), plan_front(input), "A <title>");
  for (const char* text : {"none", "full", "inverse", "replay", "A &lt;title&gt;", "peak memory"}) {
    EXPECT_THAT(svg, HasSubstr(text));
  }
  EXPECT_THROW(static_cast<void>(render_plan_svg({}, {}, "")), Error);
}

}  // namespace
}  // namespace crnet
