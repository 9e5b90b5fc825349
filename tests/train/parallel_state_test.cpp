// What is counted for each of several processes, against what they really allocate.
#include "train/parallel_state.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>

#include "counting_allocator.h"
#include "crnet/model/costs.h"
#include "crnet/model/memory.h"
#include "crnet/train/optimizer.h"
#include "crnet/train/parallel_model.h"
#include "in_process_group.h"

namespace crnet {
namespace {

using testing::CountingAllocator;
using torch::Tensor;

struct Case {
  std::string name;
  int processes;
  Sharding shard;
  int64_t shard_group = 0;
  int64_t micro_batches = 1;
  GradientPrecision gradients = GradientPrecision::kFp32;
  RecomputeStrategy recompute = RecomputeStrategy::kNone;
  bool bf16 = true;
};

RunConfig config_of(const Case& c) {
  RunConfig config;
  config.model.vocab_size = 1500;
  config.model.hidden_size = 128;
  config.model.num_layers = 6;
  config.model.num_heads = 4;
  config.model.ffn_size = 344;
  config.model.r = int64_t{32};
  config.model.max_sequence_length = 64;
  config.data.sequence_length = 64;
  config.train.micro_batch = 4;
  config.train.global_batch_tokens = c.processes * c.micro_batches * config.micro_batch_tokens();
  config.recompute.strategy = c.recompute;
  config.dist.shard = c.shard;
  config.dist.shard_group = c.shard_group;
  config.dist.gradients = c.gradients;
  config.dist.bucket_mib = 1;
  config.dist.timeout_s = 60;
  return config;
}

class Process {
 public:
  Process(const RunConfig& config, bool bf16, Group& group)
      : config_(config),
        group_(group),
        model_(config.model, config.dist,
               {torch::kCPU, bf16 ? torch::kBFloat16 : torch::kFloat32, 1}, group),
        optimizer_(model_.parallel->pieces(), config.optimizer) {
    model_.model->set_recompute(config.recompute);
    model_.initialize(1);
    model_.parallel->synchronize();
  }

  void step() {
    auto& parallel = *model_.parallel;
    const int64_t count = config_.accumulation_steps(group_.size());
    for (int64_t i = 0; i < count; ++i) {
      const Tensor tokens =
          torch::ones({config_.train.micro_batch, config_.data.sequence_length}, torch::kInt64);
      parallel.backward(model_.model->loss(tokens, tokens), /*reduce=*/i + 1 == count);
    }
    optimizer_.step(1e-4, [&](size_t bucket) { parallel.updated(bucket); });
    optimizer_.zero_grad();
    meet();
  }
  // Weights that are on their way arrive.
  void settle() {
    const torch::NoGradGuard no_grad;
    const Tensor token = torch::ones({1, 1}, torch::kInt64);
    static_cast<void>(model_.model->loss(token, token));
    meet();
  }
  void meet() { static_cast<void>(group_.sum({0}, "a meeting")); }

 private:
  const RunConfig& config_;
  Group& group_;
  ParallelModel model_;
  AdamW optimizer_;
};

class ParallelState : public ::testing::TestWithParam<Case> {};

TEST_P(ParallelState, IsWhatTheProcessesAllocate) {
  const Case& c = GetParam();
  const RunConfig config = config_of(c);
  const StepShape shape{config.train.micro_batch, config.data.sequence_length, c.bf16,
                        make_plan(config.recompute, config.model), c.micro_batches > 1};
  const StateMemory state = count_state(config.model, c.bf16, c.micro_batches > 1,
                                        {c.processes, config.dist, /*nccl=*/false});
  const MemoryCounts memory = count_memory(config.model, shape, state);
  const CountingAllocator allocator;
  double held = 0, peak = 0;
  testing::run_processes(c.processes, config.dist, [&](Group& group) {
    Process process(config, c.bf16, group);
    process.step();
    if (group.is_first()) CountingAllocator::reset_peak();
    process.meet();
    process.step();
    if (group.is_first()) {
      peak = static_cast<double>(CountingAllocator::peak_bytes()) / c.processes;
    }
    process.settle();
    if (group.is_first()) {
      held = static_cast<double>(CountingAllocator::live_bytes()) / c.processes;
    }
    process.meet();
  });
  // Sums over micro-batches are not there between steps, buckets are.
  const int64_t buckets = c.shard == Sharding::kNone ? state.masters : 0;
  const auto between = static_cast<double>(state.weights + state.masters + state.moments + buckets);
  EXPECT_NEAR(held, between, 0.02 * between);
  // An estimate from above: processes are not at their worst all at once, and what travels may have
  // arrived by then. LibTorch's kernels take something for a moment.
  const auto most = static_cast<double>(memory.peak);
  EXPECT_LE(peak, 1.12 * most);
  EXPECT_GE(peak, 0.8 * most);
}

constexpr auto kNone = Sharding::kNone, kOptimizer = Sharding::kOptimizer,
               kParameters = Sharding::kParameters;
constexpr auto kBf16 = GradientPrecision::kBf16;
constexpr auto kFp32 = GradientPrecision::kFp32;

INSTANTIATE_TEST_SUITE_P(
    Sharing, ParallelState,
    ::testing::Values(
        Case{"replicated", 2, kNone}, Case{"replicated_accumulating", 2, kNone, 0, 3},
        Case{"replicated_bf16_gradients", 2, kNone, 0, 1, kBf16},
        Case{"replicated_fp32", 2, kNone, 0, 1, kFp32, RecomputeStrategy::kReplay, false},
        Case{"optimizer", 2, kOptimizer}, Case{"optimizer_accumulating", 2, kOptimizer, 0, 3},
        Case{"optimizer_bf16_gradients", 2, kOptimizer, 0, 1, kBf16},
        Case{"optimizer_fp32", 2, kOptimizer, 0, 1, kFp32, RecomputeStrategy::kNone, false},
        Case{"parameters", 2, kParameters}, Case{"parameters_of_4", 4, kParameters},
        Case{"parameters_by_2_of_4", 4, kParameters, 2},
        Case{"parameters_accumulating", 2, kParameters, 0, 3},
        Case{"parameters_accumulating_bf16", 2, kParameters, 0, 3, kBf16},
        Case{"parameters_replaying", 2, kParameters, 0, 1, kFp32, RecomputeStrategy::kReplay},
        Case{"parameters_inverting", 2, kParameters, 0, 1, kFp32, RecomputeStrategy::kInverse}),
    [](const auto& info) { return info.param.name; });

TEST(UnitLayout, HasEveryParameterOfTheModel) {
  for (const auto architecture :
       {Architecture::kLlama, Architecture::kCRNet, Architecture::kCoLA}) {
    for (const bool tied : {false, true}) {
      ModelConfig config;
      config.architecture = architecture;
      config.tie_embeddings = tied;
      config.num_kv_heads = 2;
      const auto layouts = lay_out_units(config, /*bf16=*/true, /*shard_size=*/1);
      const auto units = CausalLM(config, torch::kMeta)->parameter_units();
      ASSERT_EQ(layouts.size(), units.size() + 1);
      std::vector<int64_t> small;
      for (size_t unit = 0; unit < units.size(); ++unit) {
        std::vector<int64_t> matrices;
        for (const auto& [name, parameter] : units[unit]) {
          (parameter.dim() > 1 ? matrices : small).push_back(parameter.numel());
        }
        EXPECT_EQ(layouts[unit].counts, matrices) << enum_name(architecture) << " unit " << unit;
      }
      std::sort(small.rbegin(), small.rend());
      EXPECT_EQ(layouts.back().counts, small) << enum_name(architecture);
    }
  }
}

TEST(UnitLayout, PartsAreEqualAndCoverTheUnit) {
  for (const int64_t size : {1, 2, 7, 1024}) {
    for (const auto& unit : lay_out_units(ModelConfig{}, /*bf16=*/true, size)) {
      EXPECT_EQ(unit.whole, size * unit.part);
      EXPECT_GE(unit.whole, unit.total);
    }
  }
}

TEST(ReducerBuckets, HoldEveryGradientOnceFromTheHeadDown) {
  const ModelConfig config;
  const auto units = lay_out_units(config, /*bf16=*/true, 1);
  const auto buckets = reducer_buckets(units, 8 << 20);
  int64_t elements = 0;
  size_t unit = units.size();
  for (const auto& bucket : buckets) {
    elements += bucket.elements;
    EXPECT_LE(bucket.unit, unit);
    unit = bucket.unit;
  }
  EXPECT_EQ(elements, count_parameters(config).total());
  EXPECT_EQ(buckets.back().unit, 0u);
  EXPECT_GT(buckets.size(), 5u);
}

}  // namespace
}  // namespace crnet
