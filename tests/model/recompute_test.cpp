// Strategies of recomputation against keeping everything: gradients, order, limits.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cstdlib>
#include <random>

#include "crnet/core/error.h"
#include "crnet/model/causal_lm.h"
#include "crnet/model/init.h"
#include "model/recompute_cases.h"

namespace crnet {
namespace {

using ::testing::HasSubstr;
using testing::kVocab, testing::Pass, testing::run, testing::shape, testing::strategy;
using torch::Tensor;

const char* in_words(const RecomputeConfig& config) {
  return enum_name(config.strategy);
}
std::string in_words(const RecomputePlan& plan) {
  return describe(plan);
}

template <class Recompute>
void expect_bit_identical(const ModelConfig& model, const Recompute& recompute, int64_t length = 13,
                          torch::Device device = torch::kCPU) {
  for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
    const Pass kept = run(model, {}, dtype, length, device),
               rebuilt = run(model, recompute, dtype, length, device);
    EXPECT_TRUE(torch::equal(rebuilt.loss, kept.loss)) << in_words(recompute);
    for (size_t i = 0; i < kept.gradients.size(); ++i) {
      EXPECT_TRUE(torch::equal(rebuilt.gradients[i], kept.gradients[i]))
          << in_words(recompute) << ", parameter " << i << ", " << dtype;
    }
  }
}

double gradient_error(const Pass& pass, const Pass& expected) {
  double off = 0, norm = 0;
  for (size_t i = 0; i < expected.gradients.size(); ++i) {
    const Tensor truth = expected.gradients[i].to(torch::kFloat64);
    off += (pass.gradients[i].to(torch::kFloat64) - truth).square().sum().item<double>();
    norm += truth.square().sum().item<double>();
  }
  return std::sqrt(off / norm);
}

TEST(RecomputeBits, FullAndReplayAreIdenticalOverDepthsAndSegments) {
  for (const int64_t num_layers : {1, 2, 5}) {
    const auto model = shape(Architecture::kCRNet, num_layers);
    expect_bit_identical(model, strategy(RecomputeStrategy::kFull));
    expect_bit_identical(model, strategy(RecomputeStrategy::kReplay));
    for (const int64_t stride : {1, 3, 7}) {
      expect_bit_identical(model, strategy(RecomputeStrategy::kReplay, stride), 11);
    }
  }
}

TEST(RecomputeBits, FullAndReplayAreIdenticalInEveryKindOfModel) {
  std::vector<ModelConfig> models(6, shape(Architecture::kCRNet, 4));
  models[0].tie_embeddings = true;
  models[1].learnable_beta = false;
  models[2].low_rank_first_block = true;
  models[3].num_kv_heads = 2;
  models[4].r = std::vector<int64_t>{1, 3, 7, 2};
  models[5].r = std::map<std::string, int64_t>{{"default", 4}, {"up", 9}, {"o", 1}};
  for (const auto& model : models) {
    expect_bit_identical(model, strategy(RecomputeStrategy::kFull));
    expect_bit_identical(model, strategy(RecomputeStrategy::kReplay));
  }
}

TEST(RecomputeBits, BaselinesAreIdentical) {
  expect_bit_identical(shape(Architecture::kLlama, 3), strategy(RecomputeStrategy::kFull));
  expect_bit_identical(shape(Architecture::kCoLA, 3), strategy(RecomputeStrategy::kFull));
  expect_bit_identical(shape(Architecture::kCoLA, 3), strategy(RecomputeStrategy::kColaM));
}

TEST(RecomputeBits, KeptAttentionChangesNothing) {
  auto grouped = shape(Architecture::kCRNet, 4);
  grouped.num_kv_heads = 2;
  for (const auto& model : {shape(Architecture::kCRNet, 4), grouped}) {
    auto replay = strategy(RecomputeStrategy::kReplay);
    replay.keep_attention = true;
    expect_bit_identical(model, replay);
    RecomputePlan in_half_of_them = make_plan(replay, model.num_layers);
    for (const size_t block : {0, 1}) in_half_of_them.blocks[block].attention = false;
    expect_bit_identical(model, in_half_of_them);
  }
  auto cola_m = strategy(RecomputeStrategy::kColaM);
  cola_m.keep_attention = true;
  expect_bit_identical(shape(Architecture::kCoLA, 3), cola_m);
}

// A model of random shape that validates.
ModelConfig random_model(Architecture architecture, std::mt19937& random) {
  const auto draw = [&](int64_t least, int64_t most) {
    return std::uniform_int_distribution<int64_t>(least, most)(random);
  };
  auto config = shape(architecture, draw(1, 6));
  config.num_heads = draw(1, 4);
  config.hidden_size = config.num_heads * 2 * draw(1, 5);
  config.num_kv_heads = draw(0, 1) == 0 ? 0 : 1;
  config.ffn_size = draw(3, 40);
  const int64_t most = std::min({config.hidden_size / config.num_heads, config.ffn_size});
  config.r = std::map<std::string, int64_t>{{"default", draw(1, most)}, {"up", draw(1, most)}};
  config.tie_embeddings = draw(0, 1) == 1;
  config.learnable_beta = draw(0, 1) == 1;
  config.low_rank_first_block = draw(0, 1) == 1;
  config.beta_init = 0.01 * static_cast<double>(draw(70, 110));
  config.validate();
  return config;
}

RecomputeConfig random_options(RecomputeStrategy kind, std::mt19937& random) {
  auto config = strategy(kind);
  if (kind == RecomputeStrategy::kFull) return config;
  config.keep_attention = random() % 2 == 0;
  if (kind != RecomputeStrategy::kColaM) config.anchors = static_cast<int64_t>(random() % 4 + 1);
  return config;
}

TEST(RecomputeBits, HoldInRandomModels) {
  std::mt19937 random(11);
  for (int trial = 0; trial < 20; ++trial) {
    SCOPED_TRACE(trial);
    using enum RecomputeStrategy;
    const auto length = static_cast<int64_t>(random() % 15 + 1);
    const auto crnet = random_model(Architecture::kCRNet, random);
    const auto cola = random_model(Architecture::kCoLA, random);
    expect_bit_identical(crnet, random_options(kFull, random), length);
    expect_bit_identical(crnet, random_options(kReplay, random), length);
    expect_bit_identical(cola, random_options(kColaM, random), length);
    const Pass kept = run(crnet, {}, torch::kFloat32, length);
    const Pass inverse = run(crnet, random_options(kInverse, random), torch::kFloat32, length);
    // fp32's 6e-8, times growth of at most 4 in each of up to 5 blocks, with room for depth.
    EXPECT_LT(gradient_error(inverse, kept), 1e-4);
    expect_bit_identical(cola, random_options(kFull, random), length);
    expect_bit_identical(random_model(Architecture::kLlama, random), random_options(kFull, random),
                         length);
  }
}

TEST(RecomputeDevices, AGpuWithDeterministicKernelsGivesTheSameBits) {
  if (!torch::cuda::is_available()) GTEST_SKIP() << "no GPU that LibTorch can use";
  // cuBLAS asks for this before it promises anything.
  setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*overwrite=*/0);
  // With warnings alone, LibTorch keeps to the attention whose backward pass adds in any order.
  struct Deterministic {
    bool used_cudnn = at::globalContext().userEnabledCuDNNSDP();
    Deterministic() {
      at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/false);
      at::globalContext().setSDPUseCuDNN(false);
    }
    ~Deterministic() {
      at::globalContext().setSDPUseCuDNN(used_cudnn);
      at::globalContext().setDeterministicAlgorithms(false, false);
    }
  } deterministic;
  auto model = shape(Architecture::kCRNet, 5);
  model.hidden_size = 64;  // heads of 16: what flash attention takes
  RecomputeConfig keeps_attention = strategy(RecomputeStrategy::kReplay);
  keeps_attention.keep_attention = true;
  for (const auto& recompute : {strategy(RecomputeStrategy::kFull),
                                strategy(RecomputeStrategy::kReplay), keeps_attention}) {
    expect_bit_identical(model, recompute, 32, torch::Device(torch::kCUDA, 0));
  }
}

TEST(RecomputeInverse, IsCloseWhereBetaIsNearOne) {
  for (const bool low_rank_first : {false, true}) {
    auto model = shape(Architecture::kCRNet, 7);
    model.low_rank_first_block = low_rank_first;
    for (const int64_t stride : {2, 3, 8}) {
      const auto inverse = strategy(RecomputeStrategy::kInverse, stride);
      const Pass kept = run(model, {}, torch::kFloat32);
      const Pass rebuilt = run(model, inverse, torch::kFloat32);
      EXPECT_TRUE(torch::equal(rebuilt.loss, kept.loss));
      EXPECT_LT(gradient_error(rebuilt, kept), 1e-5) << "stride " << stride;
      EXPECT_GT(gradient_error(rebuilt, kept), 0) << "nothing was inverted";
      // bf16's own error is of this size; see docs/recomputation.md.
      EXPECT_LT(
          gradient_error(run(model, inverse, torch::kBFloat16), run(model, {}, torch::kBFloat16)),
          0.05);
    }
  }
}

TEST(RecomputeInverse, BetaAtOrNearZeroIsReplayedSoNothingIsWrong) {
  for (const double beta : {0.0, 1e-3, -0.2}) {
    auto model = shape(Architecture::kCRNet, 5);
    model.beta_init = beta;
    // Every span passes the bound, so all is replayed.
    expect_bit_identical(model, strategy(RecomputeStrategy::kInverse));
    expect_bit_identical(model, strategy(RecomputeStrategy::kInverse, int64_t{2}));
  }
}

TEST(RecomputeInverse, OnlyTheSpanAndProjectionPastTheBoundIsReplayed) {
  CausalLM model(shape(Architecture::kCRNet, 6));
  initialize(*model, 3);
  model->set_recompute(strategy(RecomputeStrategy::kInverse, std::vector<int64_t>{3, 6}));
  const Tensor tokens = torch::randint(kVocab, {2, 7});
  const auto step = [&] { model->loss(tokens, tokens).backward(); };
  step();
  EXPECT_TRUE(model->stack().replayed().empty());
  {
    const torch::NoGradGuard no_grad;
    model->named_parameters()["model.layers.4.self_attn.v_proj.beta"].fill_(0.1);
  }
  step();
  const std::set<BlockStack::Span> expected = {{4, 5, 2}};  // blocks 4 and 5, the third: v
  EXPECT_EQ(model->stack().replayed(), expected);
  {
    const torch::NoGradGuard no_grad;
    model->named_parameters()["model.layers.4.self_attn.v_proj.beta"].fill_(1);
  }
  step();
  EXPECT_EQ(model->stack().replayed(), expected) << "from then on";
}

TEST(RecomputeInverse, DriftOfOneBlockIsMeasuredInTurn) {
  CausalLM model(shape(Architecture::kCRNet, 5));
  initialize(*model, 3);
  model->set_recompute(strategy(RecomputeStrategy::kInverse, std::vector<int64_t>{3, 5}));
  const Tensor tokens = torch::randint(kVocab, {2, 7});
  std::vector<int64_t> checked;
  for (int i = 0; i < 4; ++i) {
    model->stack().check_next();
    model->loss(tokens, tokens).backward();
    const auto& drift = model->stack().drift();
    checked.push_back(drift.block);
    ASSERT_EQ(drift.relative.size(), 7u);
    for (const double error : drift.relative) {
      EXPECT_GT(error, 0);
      EXPECT_LT(error, 1e-5);
    }
  }
  EXPECT_THAT(checked, ::testing::ElementsAre(1, 2, 4, 1));
}

TEST(RecomputeOrder, GradientsArriveBlockByBlock) {
  CausalLM model(shape(Architecture::kCRNet, 4));
  initialize(*model, 3);
  model->set_recompute(strategy(RecomputeStrategy::kReplay));
  std::vector<int64_t> arrived;
  for (const auto& item : model->named_parameters()) {
    const std::string prefix = "model.layers.";
    if (!item.key().starts_with(prefix)) continue;
    const int64_t block = std::stoll(item.key().substr(prefix.size()));
    item.value().register_hook([&arrived, block](const Tensor&) { arrived.push_back(block); });
  }
  const Tensor tokens = torch::randint(kVocab, {2, 7});
  model->loss(tokens, tokens).backward();
  EXPECT_EQ(arrived.front(), 3);
  EXPECT_EQ(arrived.back(), 0);
  EXPECT_TRUE(std::is_sorted(arrived.rbegin(), arrived.rend()));
}

TEST(RecomputeOrder, AHookRunsOnceAndItsChangeArrivesOnce) {
  for (const auto kind : {RecomputeStrategy::kNone, RecomputeStrategy::kFull,
                          RecomputeStrategy::kInverse, RecomputeStrategy::kReplay}) {
    CausalLM plain(shape(Architecture::kCRNet, 3)), hooked(shape(Architecture::kCRNet, 3));
    std::map<std::string, int> calls;
    for (auto* model : {&plain, &hooked}) {
      initialize(**model, 3);
      (*model)->set_recompute(strategy(kind));
    }
    for (const auto& item : hooked->named_parameters()) {
      item.value().register_hook([&calls, name = item.key()](const Tensor& gradient) {
        ++calls[name];
        return gradient * 0.5;  // exact in every dtype
      });
    }
    const Tensor tokens = torch::randint(kVocab, {2, 7});
    for (auto* model : {&plain, &hooked}) (*model)->loss(tokens, tokens).backward();
    for (const auto& item : plain->named_parameters()) {
      EXPECT_EQ(calls[item.key()], 1) << enum_name(kind) << ", " << item.key();
      EXPECT_TRUE(
          torch::equal(hooked->named_parameters()[item.key()].grad(), item.value().grad() * 0.5))
          << enum_name(kind) << ", " << item.key();
    }
  }
}

TEST(RecomputeInverse, AStepThatShrinksErrorsIsNoCreditForLaterOnes) {
  CausalLM model(shape(Architecture::kCRNet, 5));
  initialize(*model, 3);
  model->set_recompute(strategy(RecomputeStrategy::kInverse));  // down from block 5 to 1
  {
    const torch::NoGradGuard no_grad;
    for (const int64_t layer : {4, 3, 2}) {
      const double beta = layer == 2 ? 0.1 : 2;  // ∏ 1/|c| = 2.5, but the last step alone is 10
      model->named_parameters()["model.layers." + std::to_string(layer) + ".mlp.up_proj.beta"]
          .fill_(beta);
    }
  }
  const Tensor tokens = torch::randint(kVocab, {2, 7});
  model->loss(tokens, tokens).backward();
  const std::set<BlockStack::Span> expected = {{1, 4, 5}};
  EXPECT_EQ(model->stack().replayed(), expected);
}

TEST(RecomputeInverse, AnotherPlansSpansAreForgotten) {
  CausalLM model(shape(Architecture::kCRNet, 4));
  initialize(*model, 3);
  model->set_recompute(strategy(RecomputeStrategy::kInverse));
  model->stack().set_replayed({{1, 3, 0}, {1, 2, 0}});  // the second is of other anchors
  const Tensor tokens = torch::randint(kVocab, {2, 7});
  model->loss(tokens, tokens).backward();
  EXPECT_EQ(model->stack().replayed(), (std::set<BlockStack::Span>{{1, 3, 0}}));
}

TEST(RecomputeDrift, TheWorstIsNotANumberWhereAnyIsNot) {
  const double nan = std::nan("");
  for (const auto& errors :
       std::vector<std::vector<double>>{{nan, 0.1}, {0.1, nan}, {0.1, nan, 2}}) {
    EXPECT_TRUE(std::isnan(RecomputeDrift{1, errors}.worst()));
  }
  EXPECT_EQ((RecomputeDrift{1, {0.1, 2, 0.5}}.worst()), 2);
}

TEST(RecomputeLimits, ASecondBackwardPassAndSecondDerivativesAreRefused) {
  CausalLM model(shape(Architecture::kCRNet, 3));
  initialize(*model, 3);
  model->set_recompute(strategy(RecomputeStrategy::kReplay));
  const Tensor tokens = torch::randint(kVocab, {2, 7});
  const Tensor logits = model->forward(tokens);
  const auto backward = [&](bool graph) -> std::string {
    try {
      logits.sum().backward({}, /*retain_graph=*/true, /*create_graph=*/graph);
    } catch (const std::exception& error) {
      return error.what();
    }
    return "no error";
  };
  EXPECT_THAT(backward(true), HasSubstr("expected first derivatives only"));
  EXPECT_EQ(backward(false), "no error");
  EXPECT_THAT(backward(false), HasSubstr("got a second"));
}

TEST(RecomputeLimits, AStrategyOfAnotherArchitectureIsRefused) {
  CausalLM llama(shape(Architecture::kLlama, 2));
  try {
    llama->set_recompute(strategy(RecomputeStrategy::kInverse));
    FAIL() << "expected an error";
  } catch (const UsageError& error) {
    EXPECT_STREQ(
        error.what(),
        "recompute.strategy: expected none, full or auto for a model of architecture llama, "
        "got inverse");
  }
  CausalLM cola(shape(Architecture::kCoLA, 2));
  EXPECT_THROW(cola->set_recompute(strategy(RecomputeStrategy::kReplay)), UsageError);
  EXPECT_NO_THROW(cola->set_recompute(strategy(RecomputeStrategy::kColaM)));
}

TEST(RecomputeLimits, AnOptionThatAStrategyDoesNotLookAtIsRefused) {
  const auto error_of = [](const RecomputeConfig& config) -> std::string {
    try {
      static_cast<void>(make_plan(config, shape(Architecture::kCRNet, 4)));
    } catch (const UsageError& error) {
      return error.what();
    }
    return "no error";
  };
  auto config = strategy(RecomputeStrategy::kFull, int64_t{2});
  EXPECT_EQ(error_of(config),
            "recompute.anchors: expected nothing where recompute.strategy is full");
  config = strategy(RecomputeStrategy::kNone);
  config.keep_attention = true;
  EXPECT_THAT(error_of(config), HasSubstr("recompute.keep_attention: expected false"));
  config = strategy(RecomputeStrategy::kReplay);
  config.memory_budget = "60GiB";
  EXPECT_THAT(error_of(config), HasSubstr("recompute.memory_budget: expected fit where"));
  config.memory_budget = "sixty";
  EXPECT_THAT(error_of(config), HasSubstr("expected fit, or a size such as 60GiB, got sixty"));
}

TEST(RecomputeLimits, WithoutGradientsTheBlocksAreSimplyCalled) {
  CausalLM model(shape(Architecture::kCRNet, 3));
  initialize(*model, 3);
  const Tensor tokens = torch::randint(kVocab, {2, 7});
  const torch::NoGradGuard no_grad;
  const Tensor kept = model->forward(tokens);
  model->set_recompute(strategy(RecomputeStrategy::kInverse));
  EXPECT_TRUE(torch::equal(model->forward(tokens), kept));
}

}  // namespace
}  // namespace crnet
