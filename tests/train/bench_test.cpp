// How fast a training step is, what it cannot avoid, and where its time goes.
#include "crnet/train/bench.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <fstream>
#include <map>

#include "crnet/core/error.h"
#include "crnet/model/causal_lm.h"
#include "crnet/model/costs.h"
#include "data/test_files.h"
#include "train/profiler.h"
#include "train/step_products.h"
#include "train/step_profile.h"

namespace crnet {
namespace {

ModelConfig small_model(Architecture architecture) {
  ModelConfig config;
  config.architecture = architecture;
  config.vocab_size = 500;
  config.hidden_size = 32;
  config.num_layers = 4;
  config.num_heads = 4;
  config.ffn_size = 48;
  config.r = int64_t{8};
  return config;
}

void expect_flops_of_a_training_step(const ModelConfig& config, const std::string& what) {
  config.validate();
  const int64_t batch = 3, length = 17;
  const double counted =
      static_cast<double>(batch * length) * count_flops(config, length).training();
  EXPECT_DOUBLE_EQ(
      list_step_products(config, batch, length, /*on_cpu=*/true, torch::kFloat32).flops(), counted)
      << what;
}

TEST(StepProducts, HaveTheFlopsOfATrainingStep) {
  for (const auto architecture :
       {Architecture::kLlama, Architecture::kCRNet, Architecture::kCoLA}) {
    ModelConfig config = small_model(architecture);
    const std::string name = enum_name(architecture);
    expect_flops_of_a_training_step(config, name);
    config.tie_embeddings = true;
    expect_flops_of_a_training_step(config, name + ", tied");
    config.num_kv_heads = 2;
    expect_flops_of_a_training_step(config, name + ", grouped heads");
    config.r = std::vector<int64_t>{16, 4, 8, 2};
    expect_flops_of_a_training_step(config, name + ", a rank per block");
    config.r = std::map<std::string, int64_t>{{"default", 8}, {"q", 3}, {"down", 16}};
    config.low_rank_first_block = true;
    expect_flops_of_a_training_step(config, name + ", a rank per projection");
  }
}

TEST(StepProducts, AreThreeOfAFullRankProjectionAndSixOfALowRankOne) {
  ModelConfig config = small_model(Architecture::kCRNet);
  config.num_layers = 2;
  const auto step = list_step_products(config, 1, 8, /*on_cpu=*/true, torch::kFloat32);
  EXPECT_EQ(step.products.size(), 7u * 3 + 7u * 6 + 3u);
  EXPECT_EQ(step.attentions.size(), 2u);
}

std::vector<int64_t> sizes_of(const MatrixProduct& p) {
  return {p.rows, p.inner, p.columns, p.left_transposed ? 1 : 0, p.right_transposed ? 1 : 0};
}

// Every product of a step, whether LibTorch's or crnet's own; with 16 tokens and with 80, from
// which on A's of one input are multiplied together.
TEST(StepProducts, AreThoseThatAStepReallyMakes) {
  ModelConfig config = small_model(Architecture::kCRNet);
  config.num_layers = 2;
  CausalLM model(config);
  initialize(*model, 1);
  for (const int64_t batch : {2, 10}) {
    const auto tokens = torch::randint(config.vocab_size, {batch, 8});
    std::map<std::string, int> calls;
    Profiler profiler(torch::kCPU);
    model->loss(tokens, tokens).backward();
    for (const auto& range : profiler.stop()) calls[range.name] += 1;
    const auto step = list_step_products(config, batch, 8, /*on_cpu=*/true, torch::kFloat32);
    // Those of the head's weight add up; the low-rank ones add (X A) B to c Y.
    EXPECT_EQ(calls["aten::mm"] + calls["aten::addmm_"] + calls["crnet::product"],
              static_cast<int>(step.products.size()));
  }
}

TEST(StepProducts, FactorsOfOneInputAreOneMatrix) {
  ModelConfig config = small_model(Architecture::kCRNet);
  config.num_layers = 2;
  const auto step = list_step_products(config, 1, 64, /*on_cpu=*/true, torch::kFloat32);
  EXPECT_EQ(step.products.size(), 7u * 3 + (4u + 7u) * 3 + 3u);
  const int64_t r = config.low_rank(1, Projection::kQ);
  EXPECT_EQ(sizes_of(step.products[7]), (std::vector<int64_t>{64, 32, 3 * r, 0, 0}));
}

TEST(StepProducts, HeadComesInChunksOfTokens) {
  ModelConfig config = small_model(Architecture::kLlama);
  config.num_layers = 1;
  const auto step =
      list_step_products(config, 1, 100, /*on_cpu=*/true, torch::kFloat32);  // 50 and 50 tokens
  EXPECT_EQ(step.products.size(), 7u * 3 + 2u * 3);
  EXPECT_EQ(sizes_of(step.products[7]), (std::vector<int64_t>{50, 32, 500, 0, 1}));
  EXPECT_EQ(sizes_of(step.products[8]), (std::vector<int64_t>{50, 500, 32, 0, 0}));
  EXPECT_EQ(sizes_of(step.products[9]), (std::vector<int64_t>{500, 50, 32, 1, 0}));
}

double time_of(const std::vector<OperatorGroup>& groups, const std::string& group,
               const std::string& name) {
  for (const auto& g : groups) {
    if (g.name != group) continue;
    for (const auto& time : g.operators) {
      if (time.name == name) return time.milliseconds;
    }
  }
  return -1;
}

TEST(Breakdown, CountsEveryOperatorWithoutThoseThatItCallsAndAddsUpToTheStep) {
  const uint64_t ms = 1000000;
  const auto groups = break_down({
      {"aten::mm", 1, 0, 5 * ms},  // before the steps
      {"ProfilerStep#1", 1, 10 * ms, 30 * ms},
      {"crnet::forward", 1, 11 * ms, 20 * ms},
      {"crnet::rms_norm", 1, 12 * ms, 16 * ms},
      {"aten::empty", 1, 12 * ms, 13 * ms},
      {"aten::mm", 1, 16 * ms, 19 * ms},
      {"crnet::update", 1, 20 * ms, 28 * ms},
      {"aten::add_", 1, 21 * ms, 24 * ms},
      {"ProfilerStep#2", 1, 30 * ms, 40 * ms},
      {"aten::empty", 2, 11 * ms, 19 * ms},  // in another thread
  });
  EXPECT_DOUBLE_EQ(time_of(groups, "fused operators", "crnet::rms_norm"), 3 / 2.0);
  EXPECT_DOUBLE_EQ(time_of(groups, "allocation and filling", "aten::empty"), 1 / 2.0);
  EXPECT_DOUBLE_EQ(time_of(groups, "matrix products", "aten::mm"), 3 / 2.0);
  EXPECT_DOUBLE_EQ(time_of(groups, "optimizer", "aten::add_"), 3 / 2.0);
  EXPECT_DOUBLE_EQ(time_of(groups, "optimizer", "crnet::update"), 5 / 2.0);
  EXPECT_DOUBLE_EQ(time_of(groups, "other", "crnet::forward"), 2 / 2.0);
  double sum = 0;
  for (const auto& group : groups) sum += group.milliseconds;
  EXPECT_DOUBLE_EQ(sum, (20 + 10) / 2.0);
  EXPECT_EQ(groups.front().name, "other");
}

// Names as a GPU's profile has them.
TEST(Breakdown, OfADeviceCountsItsKernelsAndWhatItWaits) {
  const uint64_t ms = 1000000;
  const auto kernel = [&](const std::string& name, uint64_t begin, uint64_t end) {
    return RecordedRange{name, 7, begin * ms, end * ms, /*is_kernel=*/true};
  };
  const auto groups = break_down(
      {
          {"ProfilerStep#1", 1, 0, 10 * ms},
          {"aten::mm", 1, 1 * ms, 2 * ms},
          {"ProfilerStep#2", 1, 10 * ms, 20 * ms},
          kernel("nvjet_sm90_tst_128x256_64x4_2x1_v_bz_coopA_TNN", 2, 12),
          kernel("void crnet::cuda::(anonymous namespace)::swiglu_elements<crnet::cuda::bfloat16, "
                 "8>(crnet::cuda::bfloat16 const*)",
                 12, 15),
          kernel("void crnet::cuda::(anonymous namespace)::cross_entropy_rows<float, 4>(float*)",
                 15, 16),
          kernel("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7", 17, 19),
          kernel("void at::native::vectorized_elementwise_kernel<8, "
                 "at::native::bfloat16_copy_kernel_cuda>(int)",
                 19, 20),
          kernel(
              "void at::native::vectorized_elementwise_kernel<8, at::native::CUDAFunctor_add>(int)",
              21, 22),
      },
      /*of_kernels=*/true);
  EXPECT_DOUBLE_EQ(
      time_of(groups, "matrix products", "nvjet_sm90_tst_128x256_64x4_2x1_v_bz_coopA_TNN"), 5);
  EXPECT_DOUBLE_EQ(time_of(groups, "fused operators", "crnet::cuda::swiglu_elements"), 1.5);
  EXPECT_DOUBLE_EQ(time_of(groups, "softmax and loss", "crnet::cuda::cross_entropy_rows"), 0.5);
  EXPECT_DOUBLE_EQ(
      time_of(groups, "copies and dtypes", "at::native::vectorized_elementwise_kernel"), 0.5);
  EXPECT_DOUBLE_EQ(
      time_of(groups, "pointwise and sums", "at::native::vectorized_elementwise_kernel"), 0.5);
  EXPECT_DOUBLE_EQ(time_of(groups, "no kernel", "between kernels"), 1);
  double sum = 0;
  for (const auto& group : groups) sum += group.milliseconds;
  EXPECT_DOUBLE_EQ(sum, (22 - 2) / 2.0);
}

TEST(Bench, ReportsEverySideOfAStepOfAModelFile) {
  const test::TempFolder folder;
  const auto file = folder.path() / "model.yaml";
  std::ofstream(file) << "model: {hidden_size: 32, num_layers: 2, num_heads: 4, ffn_size: 48, "
                         "vocab_size: 300, r: 8}\n";
  for (const std::string precision : {"fp32", "bf16"}) {
    const auto report = measure_training_step(
        load_run_config(file, {"train.threads=1", "train.device=cpu", "train.micro_batch=2",
                               "data.sequence_length=16", "train.precision=" + precision,
                               "recompute.strategy=replay"}),
        {.rounds = 2, .floor = true});
    EXPECT_EQ(report.tokens, 2 * 16);
    EXPECT_NE(report.recompute.find("replayed"), std::string::npos);
    ASSERT_TRUE(report.floor);
    const FloorTimes& floor = *report.floor;
    EXPECT_EQ(floor.num_products, 7 * 3 + 7 * 6 + 3);
    EXPECT_EQ(floor.num_attentions, 2);
    EXPECT_LE(floor.ratio.least, floor.ratio.median);
    EXPECT_LE(floor.ratio.median, floor.ratio.most);
    EXPECT_GT(floor.ratio.least, 0);
    EXPECT_GT(floor.attention.median, 0);
    EXPECT_GT(floor.other_attention.median, floor.attention.median);
    std::map<std::string, double> groups;
    for (const auto& group : report.breakdown) groups[group.name] = group.milliseconds;
    for (const char* name : {"matrix products", "attention", "fused operators", "optimizer"}) {
      EXPECT_GT(groups[name], 0) << name;
    }
  }
}

TEST(Bench, RefusesFewerThanOneRound) {
  const auto loaded =
      load_run_config(std::string(CRNET_SOURCE_DIR) + "/configs/models/crnet-60m.yaml");
  EXPECT_THROW(static_cast<void>(measure_training_step(loaded, {.rounds = 0})), UsageError);
}

}  // namespace
}  // namespace crnet
