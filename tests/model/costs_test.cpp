// Counts from the shape against what a model really has and really allocates.
#include "crnet/model/costs.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>

#include "counting_allocator.h"
#include "crnet/config/load.h"
#include "crnet/model/causal_lm.h"
#include "crnet/model/init.h"
#include "crnet/model/memory.h"

namespace crnet {
namespace {

struct ModelFile {
  ModelConfig model;
  template <class Visitor>
  void visit_fields(Visitor&& visit) {
    visit(model, {.name = "model", .help = "shape"});
  }
  void validate() const { model.validate(); }
};

ModelConfig load(const std::string& name) {
  return load_config<ModelFile>(std::string(CRNET_SOURCE_DIR) + "/configs/models/" + name + ".yaml")
      .config.model;
}

int64_t parameters_of(const ModelConfig& config) {
  CausalLM model(config, torch::kMeta);
  int64_t sum = 0;
  for (const auto& p : model->parameters()) sum += p.numel();
  return sum;
}

const std::vector<std::string> kSizes = {"60m", "130m", "350m", "1b", "7b", "13b"};

TEST(ParameterCounts, EveryModelFileHasWhatTheFormulaSays) {
  for (const std::string architecture : {"llama", "crnet", "cola"}) {
    for (const auto& size : kSizes) {
      const auto config = load(architecture + "-" + size);
      EXPECT_EQ(parameters_of(config), count_parameters(config).total()) << architecture << size;
    }
  }
}

TEST(ParameterCounts, CRNetFollowsTheClosedFormula) {
  for (const auto& size : kSizes) {
    const auto c = load("crnet-" + size);
    const int64_t h = c.hidden_size, L = c.num_layers, f = c.ffn_size, V = c.vocab_size;
    const int64_t r = std::get<int64_t>(c.r);
    const int64_t expected = 2 * V * h + (4 * h * h + 3 * h * f) +
                             (L - 1) * (11 * h * r + 3 * f * r + 7) + (2 * L + 1) * h;
    EXPECT_EQ(count_parameters(c).total(), expected) << size;
  }
}

TEST(ParameterCounts, AgreeWithThePublishedOnes) {
  EXPECT_NEAR(static_cast<double>(count_parameters(load("crnet-1b")).total()), 583e6, 1e6);
  EXPECT_NEAR(static_cast<double>(count_parameters(load("llama-1b")).total()), 1339e6, 1e6);
  // The paper rounds its smaller models ("about 43 M"), and its counts are 4 % below the formula
  // that gives its 1B exactly.
  for (const auto& [size, published] :
       {std::pair<std::string, double>{"60m", 43e6}, {"130m", 94e6}, {"350m", 185e6}}) {
    EXPECT_NEAR(static_cast<double>(count_parameters(load("crnet-" + size)).total()), published,
                0.05 * published);
  }
}

TEST(ParameterCounts, HoldForRanksPerBlockAndProjectionTiedHeadsAndGroupedHeads) {
  auto config = load("crnet-quickstart");
  config.num_kv_heads = 2;
  config.tie_embeddings = true;
  config.r = std::vector<int64_t>{16, 8, 24, 24, 24, 16, 8, 8};
  config.low_rank_first_block = true;
  EXPECT_EQ(parameters_of(config), count_parameters(config).total());
  config.r = std::map<std::string, int64_t>{{"default", 16}, {"q", 4}, {"down", 32}};
  config.learnable_beta = false;
  EXPECT_EQ(parameters_of(config), count_parameters(config).total());
}

TEST(FlopCounts, AreTwoPerWeightAndToken) {
  const auto config = load("llama-60m");
  const auto counts = count_parameters(config);
  const auto flops = count_flops(config, 256);
  EXPECT_DOUBLE_EQ(flops.projections,
                   2.0 * static_cast<double>(counts.first_block + counts.later_blocks));
  EXPECT_DOUBLE_EQ(flops.head, 2.0 * static_cast<double>(counts.head));
  // 8 blocks, 512 wide, 128.5 keys on average: scores and weighted sum, 2 FLOPs each.
  EXPECT_DOUBLE_EQ(flops.attention, 8 * 4 * 512 * 128.5);
}

// The stated accuracy of `crnet plan`, which is an analytic estimate: 5 %.
void expect_within_5_percent(int64_t predicted, int64_t measured, const std::string& what) {
  EXPECT_NEAR(static_cast<double>(predicted), static_cast<double>(measured),
              0.05 * static_cast<double>(measured))
      << what;
}

void compare_with_allocations(const ModelConfig& config, bool bf16, const std::string& what) {
  const StepShape shape{4, 64, bf16};
  const MemoryCounts predicted = count_memory(config, shape);
  const testing::CountingAllocator allocator;
  CausalLM model(config);
  initialize(*model, 1);
  model->set_compute_dtype(bf16 ? torch::kBFloat16 : torch::kFloat32);
  const auto tokens = torch::randint(config.vocab_size, {shape.batch, shape.sequence_length});
  const int64_t before = allocator.live_bytes();
  expect_within_5_percent(predicted.weights, before, what + ": weights");
  const auto loss = model->loss(tokens, tokens);
  expect_within_5_percent(
      predicted.activations.total() + predicted.weight_copies + predicted.head_gradient,
      allocator.live_bytes() - before, what + ": kept by the forward pass");
  loss.backward();
  int64_t gradients = 0;
  for (const auto& p : model->parameters()) gradients += static_cast<int64_t>(p.grad().nbytes());
  expect_within_5_percent(predicted.gradients, gradients, what + ": gradients");
}

TEST(MemoryCounts, AgreeWithWhatIsAllocated) {
  for (const auto architecture :
       {Architecture::kLlama, Architecture::kCRNet, Architecture::kCoLA}) {
    for (const bool bf16 : {false, true}) {
      auto config = load("crnet-quickstart");
      config.architecture = architecture;
      const std::string what = enum_name(architecture) + std::string(bf16 ? ", bf16" : ", fp32");
      compare_with_allocations(config, bf16, what);
      config.num_kv_heads = 2;
      compare_with_allocations(config, bf16, what + ", grouped heads");
    }
  }
}

}  // namespace
}  // namespace crnet
