// What a run on several processes should send, wait for and reach. Rates are made up.
#include "crnet/train/parallel_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "crnet/core/error.h"
#include "crnet/core/format.h"
#include "crnet/model/causal_lm.h"
#include "crnet/model/costs.h"

namespace crnet {
namespace {

using ::testing::HasSubstr;

constexpr double kGpuFlops = 400e12;
constexpr MachineRates kRates{.products = kGpuFlops,
                              .low_rank_products = kGpuFlops,
                              .attention_forward = kGpuFlops,
                              .attention_backward = kGpuFlops,
                              .memory = 2.5e12};
constexpr int64_t kGiB = int64_t{1} << 30;

LoadedConfig<RunConfig> loaded_config(const std::string& model,
                                      std::vector<std::string> settings = {}) {
  settings.push_back("train.micro_batch=8");
  settings.push_back("data.sequence_length=1024");
  return load_run_config(CRNET_SOURCE_DIR "/configs/models/" + model + ".yaml", settings);
}

PlannerInput input_for(const RunConfig& config) {
  PlannerInput input{config, true, kRates};
  input.device = torch::kCUDA;
  return input;
}

std::vector<ParallelPlan> plans_of(const LoadedConfig<RunConfig>& loaded, int num_processes,
                                   const Network& network = {}, int64_t budget = 80 * kGiB) {
  return plan_processes(loaded, input_for(loaded.config), network, num_processes, budget);
}

constexpr size_t kReplicated = 0, kOptimizer = 1, kParameters = 2, kHybrid = 3;

TEST(ParallelPlan, LooksAtEveryWayToShare) {
  const auto names = [](const std::vector<ParallelPlan>& plans) {
    std::vector<std::string> result;
    for (const auto& plan : plans) {
      result.push_back(enum_name(plan.shard) + std::string("/") + std::to_string(plan.shard_size));
    }
    return result;
  };
  const auto model = loaded_config("crnet-60m");
  EXPECT_THAT(names(plans_of(model, 1)), ::testing::ElementsAre("none/1"));
  EXPECT_THAT(names(plans_of(model, 8)),
              ::testing::ElementsAre("none/1", "optimizer/8", "parameters/8"));
  EXPECT_THAT(names(plans_of(model, 16)),
              ::testing::ElementsAre("none/1", "optimizer/16", "parameters/16", "parameters/8"));
  EXPECT_THAT(names(plans_of(loaded_config("crnet-60m", {"dist.shard_group=2"}), 8)),
              ::testing::ElementsAre("none/1", "optimizer/8", "parameters/8", "parameters/2"));
}

TEST(ParallelPlan, BytesAreThoseOfTheCollectives) {
  const auto model = loaded_config("llama-60m");
  const auto plans = plans_of(model, 16);
  const ParameterCounts counts = count_parameters(model.config.model);
  const auto all = static_cast<double>(counts.total()),
             blocks = static_cast<double>(counts.first_block + counts.later_blocks);
  const double others = 15.0 / 16, in_node = 7.0 / 8;
  const auto near = [](double found, double expected) {
    EXPECT_NEAR(found, expected, 1e-3 * expected);  // parts are padded
  };
  near(plans[kReplicated].bytes_sent, 2 * others * 4 * all);
  // Weights of blocks travel in bf16, all else in fp32; gradients in fp32.
  const double weights = 2 * blocks + 4 * (all - blocks);
  near(plans[kOptimizer].bytes_sent, others * (weights + 4 * all));
  // Blocks once more for the backward pass.
  near(plans[kParameters].bytes_sent, others * (weights + 2 * blocks + 4 * all));
  // Between the two nodes an eighth is summed.
  near(plans[kHybrid].bytes_sent,
       in_node * (weights + 2 * blocks + 4 * all) + 2 * 0.5 * 4 * all / 8);
}

TEST(ParallelPlan, GradientsInBf16HalveTheirBytes) {
  const auto fp32 = plans_of(loaded_config("crnet-60m"), 8);
  const auto bf16 = plans_of(loaded_config("crnet-60m", {"dist.gradients=bf16"}), 8);
  EXPECT_DOUBLE_EQ(bf16[kReplicated].bytes_sent, fp32[kReplicated].bytes_sent / 2);
  EXPECT_LT(bf16[kParameters].bytes_sent, fp32[kParameters].bytes_sent);
  EXPECT_LT(bf16[kParameters].recompute.memory.buffers, fp32[kParameters].recompute.memory.buffers);
}

TEST(ParallelPlan, AReplayGathersBlocksOnceMore) {
  const auto none = plans_of(loaded_config("crnet-60m"), 8),
             replay = plans_of(loaded_config("crnet-60m", {"recompute.strategy=replay"}), 8);
  EXPECT_GT(replay[kParameters].bytes_sent, none[kParameters].bytes_sent);
  EXPECT_DOUBLE_EQ(replay[kOptimizer].bytes_sent, none[kOptimizer].bytes_sent);
}

TEST(ParallelPlan, AccumulatedMicroBatchesTravelOnce) {
  const int64_t tokens = 8 * 8 * 1024;
  const auto one = plans_of(loaded_config("crnet-60m"), 8);
  const auto batch = format("train.global_batch_tokens=%ld", static_cast<long>(4 * tokens));
  const auto four = plans_of(loaded_config("crnet-60m", {batch}), 8);
  EXPECT_EQ(four[0].num_micro_batches, 4);
  EXPECT_DOUBLE_EQ(four[kReplicated].bytes_sent, one[kReplicated].bytes_sent);
  EXPECT_DOUBLE_EQ(four[kOptimizer].bytes_sent, one[kOptimizer].bytes_sent);
  EXPECT_GT(four[kParameters].bytes_sent, one[kParameters].bytes_sent);
  EXPECT_GT(four[kReplicated].efficiency, one[kReplicated].efficiency);
  EXPECT_GT(four[kReplicated].recompute.memory.gradients,
            one[kReplicated].recompute.memory.gradients);
}

TEST(ParallelPlan, AStepIsItsWorkAndWhatItWaitsFor) {
  for (const auto& plan : plans_of(loaded_config("crnet-130m"), 64)) {
    EXPECT_GT(plan.exposed, 0);
    EXPECT_LE(plan.exposed, plan.communication);
    EXPECT_GT(plan.seconds, plan.recompute.seconds + plan.exposed) << "the update comes on top";
    EXPECT_DOUBLE_EQ(plan.tokens_per_second, 64 * 8 * 1024 / plan.seconds);
  }
}

TEST(ParallelPlan, AloneNothingIsSentAndNothingIsLost) {
  const auto plan = plans_of(loaded_config("crnet-60m"), 1).at(0);
  EXPECT_EQ(plan.bytes_sent, 0);
  EXPECT_EQ(plan.communication, 0);
  EXPECT_EQ(plan.efficiency, 1);
}

TEST(ParallelPlan, SlowerLinksNeverMakeItFaster) {
  const auto model = loaded_config("crnet-350m");
  std::vector<double> efficiencies(4, 2.0);
  for (const double gigabytes : {400.0, 50.0, 10.0, 1.0}) {
    const Network network{.network_bandwidth = gigabytes * 1e9};
    const auto plans = plans_of(model, 64, network);
    for (size_t i = 0; i < plans.size(); ++i) {
      EXPECT_LE(plans[i].efficiency, efficiencies[i]);
      efficiencies[i] = plans[i].efficiency;
    }
  }
  for (const double efficiency : efficiencies) EXPECT_LT(efficiency, 0.5);
}

TEST(ParallelPlan, SplittingTakesLessMemoryTheMoreProcessesThereAre) {
  const auto model = loaded_config("llama-1b");
  const auto peak = [](const ParallelPlan& plan) { return plan.recompute.memory.peak; };
  const auto few = plans_of(model, 8), many = plans_of(model, 64);
  EXPECT_EQ(peak(few[kReplicated]), peak(many[kReplicated]));
  EXPECT_LT(peak(few[kParameters]), peak(few[kOptimizer]));
  EXPECT_LT(peak(few[kOptimizer]), peak(few[kReplicated]));
  EXPECT_LT(peak(many[kParameters]), peak(few[kParameters]));
  const auto moments = [](const ParallelPlan& plan) {
    return static_cast<double>(plan.state.moments);
  };
  EXPECT_NEAR(moments(few[kParameters]), moments(few[kReplicated]) / 8,
              0.01 * moments(few[kParameters]));
}

// 7B in bf16: 16 bytes a parameter in each process are too much for 80 GiB, split they are not.
TEST(ParallelPlan, WhatDoesNotFitIsSaid) {
  const auto plans =
      plans_of(loaded_config("llama-7b", {"recompute.strategy=auto", "train.micro_batch=1"}), 8);
  EXPECT_FALSE(plans[kReplicated].fits);
  EXPECT_TRUE(plans[kOptimizer].fits);
  EXPECT_TRUE(plans[kParameters].fits);
}

// What processes share leaves room for activations.
TEST(ParallelPlan, AutoRecomputesLessWhereMoreIsSplit) {
  const auto model = loaded_config("crnet-1b", {"recompute.strategy=auto"});
  const auto free = plans_of(model, 8);
  const int64_t budget = free[kParameters].recompute.memory.peak;
  const auto plans = plans_of(model, 8, {}, budget);
  EXPECT_EQ(plans[kParameters].recompute.recompute_share, 0);
  EXPECT_GT(plans[kReplicated].recompute.recompute_share, 0);
}

std::string refusal(const LoadedConfig<RunConfig>& loaded, int num_processes) {
  try {
    check_plannable(loaded, {}, num_processes);
  } catch (const UsageError& error) {
    return error.what();
  }
  return "no error";
}

TEST(ParallelPlan, ProcessesThatCannotShareAreRefused) {
  EXPECT_THAT(
      refusal(loaded_config("crnet-60m", {"dist.shard_group=2"}), 7),
      HasSubstr("dist.shard_group: expected 0 or a divisor of the number of processes (7)"));
  EXPECT_THAT(refusal(loaded_config("crnet-60m", {"train.global_batch_tokens=16384"}), 4),
              HasSubstr("train.global_batch_tokens: expected 0 or a multiple of"));
  EXPECT_THAT(
      refusal(loaded_config("crnet-1b", {"train.global_batch_tokens=131072"}), 64),
      HasSubstr("(8 * 1024 * 64 = 524288), got 131072; --set train.micro_batch=2 would do"));
  EXPECT_THAT(refusal(loaded_config("crnet-1b", {"train.global_batch_tokens=131072"}), 7),
              HasSubstr("got 131072; --set train.global_batch_tokens=114688 would do"));
  EXPECT_THAT(refusal(loaded_config("crnet-60m"), 12), HasSubstr("fills nodes of 8, got 12"));
}

}  // namespace
}  // namespace crnet
