// The models as wholes: gradients, shapes, names, counts, the cross-layer path, the cache.
#include "crnet/model/causal_lm.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <map>
#include <set>

#include "crnet/core/error.h"
#include "crnet/model/crnet_layer.h"
#include "crnet/model/init.h"
#include "gradcheck.h"

namespace crnet {
namespace {

using testing::relative_error;

ModelConfig tiny(Architecture architecture) {
  ModelConfig config;
  config.architecture = architecture;
  config.vocab_size = 11;
  config.hidden_size = 8;
  config.num_layers = 2;
  config.num_heads = 2;
  config.num_kv_heads = 1;
  config.ffn_size = 12;
  config.max_sequence_length = 32;
  config.r = int64_t{3};
  config.beta_init = 0.8;
  config.low_rank_init = LowRankInit::kProduct;  // so that every gradient is there
  return config;
}

const std::vector<Architecture> kArchitectures = {Architecture::kLlama, Architecture::kCRNet,
                                                  Architecture::kCoLA};

CausalLM make(const ModelConfig& config, uint64_t seed = 1) {
  CausalLM model(config);
  initialize(*model, seed);
  return model;
}

TEST(CausalLMGradients, OfEveryParameterMatchFiniteDifferences) {
  torch::set_num_threads(1);  // thousands of tiny operators
  for (const auto architecture : kArchitectures) {
    for (const bool low_rank_first : {false, true}) {
      if (low_rank_first && architecture != Architecture::kCRNet) continue;
      auto config = tiny(architecture);
      config.low_rank_first_block = low_rank_first;
      config.init_std = 0.3;  // large enough that every path matters
      auto model = make(config);
      model->to(torch::kFloat64);
      model->set_compute_dtype(torch::kFloat64);
      const auto tokens = torch::randint(11, {2, 5}), targets = torch::randint(11, {2, 5});
      testing::expect_gradients_match([&] { return model->loss(tokens, targets); },
                                      model->parameters(), 1e-6);
    }
  }
}

TEST(CausalLMShape, LossIsTheCrossEntropyOfTheLogits) {
  for (const auto architecture : kArchitectures) {
    auto model = make(tiny(architecture));
    const auto tokens = torch::randint(11, {2, 7}), targets = torch::randint(11, {2, 7});
    const auto logits = model->forward(tokens);
    EXPECT_EQ(logits.sizes(), (std::vector<int64_t>{2, 7, 11}));
    const auto expected =
        torch::nn::functional::cross_entropy(logits.flatten(0, 1), targets.flatten());
    EXPECT_NEAR(model->loss(tokens, targets).item<double>(), expected.item<double>(), 1e-5);
  }
}

TEST(CausalLMShape, ParametersAreNamedAsInTheFiles) {
  auto config = tiny(Architecture::kCRNet);
  std::set<std::string> names;
  for (const auto& item : CausalLM(config)->named_parameters()) names.insert(item.key());
  const std::string block = "model.layers.1.";
  std::set<std::string> expected = {"model.embed_tokens.weight", "model.norm.weight",
                                    "lm_head.weight"};
  for (const std::string layer : {"model.layers.0.", "model.layers.1."}) {
    expected.insert(layer + "input_layernorm.weight");
    expected.insert(layer + "post_attention_layernorm.weight");
    for (const std::string p : {"self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o",
                                "mlp.gate", "mlp.up", "mlp.down"}) {
      if (layer == "model.layers.0.") {
        expected.insert(layer + p + "_proj.weight");
        continue;
      }
      for (const std::string part : {"A", "B", "beta"})
        expected.insert(layer + p + "_proj." + part);
    }
  }
  EXPECT_EQ(names, expected);
}

TEST(CausalLMShape, TiedHeadHasNoMatrixOfItsOwn) {
  auto config = tiny(Architecture::kLlama);
  config.tie_embeddings = true;
  auto model = make(config);
  for (const auto& item : model->named_parameters()) EXPECT_NE(item.key(), "lm_head.weight");
  EXPECT_TRUE(model->head_weight().is_same(model->named_parameters()["model.embed_tokens.weight"]));
}

TEST(CausalLMShape, AConfigThatDoesNotFitIsRefused) {
  auto config = tiny(Architecture::kLlama);
  config.num_heads = 3;
  EXPECT_THROW(CausalLM{config}, UsageError);
}

TEST(CausalLMCrossLayer, OutputsOfTheBlockBelowReachTheBlockAbove) {
  auto model = make(tiny(Architecture::kCRNet));
  const auto tokens = torch::randint(11, {1, 6});
  const auto before = model->forward(tokens).clone();
  {
    const torch::NoGradGuard no_grad;
    for (auto& item : model->named_parameters()) {
      if (item.key() == "model.layers.1.mlp.down_proj.beta") item.value().fill_(-2.0);
    }
  }
  EXPECT_GT(relative_error(model->forward(tokens), before), 1e-3);
}

TEST(CausalLMCrossLayer, WithZeroFactorsAndUnitBetaTheSecondBlockRepeatsTheOutput) {
  CRNetLayer layer(CRNetLayerOptions(6, 5).r(2).low_rank_init(LowRankInit::kZero));
  const auto y_prev = torch::randn({3, 5});
  EXPECT_LT(relative_error(layer(torch::randn({3, 6}), y_prev), y_prev), 1e-5);
}

TEST(CausalLMCrossLayer, FixedBetaIsNoParameterButIsApplied) {
  CRNetLayer layer(CRNetLayerOptions(6, 5).r(2).learnable_beta(false).beta_init(0.5));
  EXPECT_EQ(layer->parameters().size(), 2u);
  EXPECT_EQ(layer->buffers().size(), 1u);
  const torch::NoGradGuard no_grad;
  layer->A.zero_();
  const auto y_prev = torch::randn({3, 5});
  EXPECT_LT(relative_error(layer(torch::randn({3, 6}), y_prev), 0.5 * y_prev), 1e-5);
}

TEST(CausalLMCrossLayer, ALayerWithoutARankIsRefused) {
  EXPECT_THROW(CRNetLayer(CRNetLayerOptions(6, 5)), Error);
  EXPECT_THROW(CRNetLayer(CRNetLayerOptions(6, 5).r(6)), Error);
}

TEST(CausalLMPrecision, BFloat16StaysNearFloat32AndKeepsMasters) {
  for (const auto architecture : kArchitectures) {
    auto model = make(tiny(architecture));
    const auto tokens = torch::randint(11, {2, 7}), targets = torch::randint(11, {2, 7});
    const double exact = model->loss(tokens, targets).item<double>();
    model->set_compute_dtype(torch::kBFloat16);
    const auto loss = model->loss(tokens, targets);
    EXPECT_NEAR(loss.item<double>(), exact, 2e-2 * exact);
    EXPECT_EQ(model->forward(tokens).scalar_type(), torch::kBFloat16);
    loss.backward();
    for (const auto& p : model->parameters()) {
      EXPECT_EQ(p.scalar_type(), torch::kFloat32);
      EXPECT_EQ(p.grad().scalar_type(), torch::kFloat32);
    }
  }
}

// Gradients by parameter, those of all beta together: each is one sum in which much cancels.
std::map<std::string, torch::Tensor> gradients_of(CausalLM& model, const torch::Tensor& loss) {
  const auto parameters = model->named_parameters();
  const auto gradients = torch::autograd::grad({loss}, parameters.values());
  std::map<std::string, torch::Tensor> by_name;
  std::vector<torch::Tensor> of_beta;
  for (size_t i = 0; i < gradients.size(); ++i) {
    const std::string& name = parameters[i].key();
    if (name.ends_with(".beta")) {
      of_beta.push_back(gradients[i]);
    } else {
      by_name[name] = gradients[i];
    }
  }
  if (!of_beta.empty()) by_name["beta"] = torch::stack(of_beta);
  return by_name;
}

TEST(CausalLMDevices, AGpuGivesTheLossAndGradientsOfTheCpu) {
  if (!torch::cuda::is_available()) GTEST_SKIP() << "no GPU that LibTorch can use";
  for (const auto architecture : kArchitectures) {
    for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
      const auto tokens = torch::randint(11, {2, 7}), targets = torch::randint(11, {2, 7});
      std::vector<torch::Tensor> losses;
      std::vector<std::map<std::string, torch::Tensor>> gradients;
      for (const auto& device : testing::devices()) {
        auto model = make(tiny(architecture));
        model->to(device);
        model->set_compute_dtype(dtype);
        losses.push_back(model->loss(tokens.to(device), targets.to(device)));
        gradients.push_back(gradients_of(model, losses.back()));
      }
      const double tolerance = 10 * testing::tolerance_of(dtype);  // through two blocks
      EXPECT_LT(relative_error(losses[1], losses[0]), tolerance);
      for (const auto& [name, expected] : gradients[0]) {
        EXPECT_LT(relative_error(gradients[1].at(name), expected), tolerance) << name;
      }
    }
  }
}

TEST(CausalLMCache, CachedLogitsEqualUncachedOnes) {
  for (const auto architecture : kArchitectures) {
    auto model = make(tiny(architecture));
    const torch::NoGradGuard no_grad;
    const auto tokens = torch::randint(11, {2, 9});
    const auto whole = model->forward(tokens);
    KeyValueCaches caches(2);
    std::vector<torch::Tensor> pieces;
    for (const auto& [begin, length] :
         {std::pair<int64_t, int64_t>{0, 4}, {4, 1}, {5, 3}, {8, 1}}) {
      pieces.push_back(model->forward(tokens.narrow(1, begin, length), &caches));
    }
    EXPECT_LT(relative_error(torch::cat(pieces, 1), whole), 1e-5);
  }
}

TEST(Initialisation, DependsOnSeedAndNameAlone) {
  const auto config = tiny(Architecture::kCRNet);
  const int threads = torch::get_num_threads();
  auto a = make(config, 3);
  torch::set_num_threads(1);
  auto b = make(config, 3), c = make(config, 4);
  torch::set_num_threads(threads);
  for (const auto& item : a->named_parameters()) {
    EXPECT_TRUE(torch::equal(item.value(), b->named_parameters()[item.key()])) << item.key();
  }
  EXPECT_FALSE(torch::equal(a->head_weight(), c->head_weight()));
  EXPECT_FALSE(torch::equal(a->named_parameters()["model.layers.0.self_attn.k_proj.weight"],
                            a->named_parameters()["model.layers.0.self_attn.v_proj.weight"]));
}

TEST(Initialisation, ValuesAreTheSameOnEveryMachine) {
  torch::Tensor values = torch::empty({4});
  fill_normal(values, 0.02, 1234, 5);
  // Philox4x32-10 of key (1234, 0), counters (i, 0, 5, 0), summed in halves; from an independent
  // implementation in Python.
  const std::vector<float> expected = {0.0205528252f, -0.00888209138f, -0.00373874605f,
                                       0.00334367901f};
  for (int64_t i = 0; i < 4; ++i) EXPECT_EQ(values[i].item<float>(), expected[i]) << i;
}

// A block whose o and down start with B = 0 passes nothing back to its inner projections at first;
// B = 0 where nothing comes from below would leave the model at zero for good.
TEST(Initialisation, ZeroScalingReachesEveryParameterWithinAFewUpdates) {
  for (const auto architecture : {Architecture::kCRNet, Architecture::kCoLA}) {
    auto config = tiny(architecture);
    config.low_rank_init = LowRankInit::kZero;
    config.low_rank_first_block = true;
    auto model = make(config);
    const auto tokens = torch::randint(11, {2, 7});
    for (int update = 0; update < 4; ++update) {
      model->zero_grad();
      model->loss(tokens, tokens).backward();
      const torch::NoGradGuard no_grad;
      for (auto& p : model->parameters()) p.sub_(0.01 * p.grad().sign());
    }
    for (const auto& item : model->named_parameters()) {
      EXPECT_GT(item.value().grad().abs().sum().item<double>(), 0) << item.key();
    }
  }
}

TEST(Initialisation, IsNormalEnough) {
  torch::Tensor values = torch::empty({400, 1000});
  fill_normal(values, 0.02, 9, 0);
  const auto z = values.to(torch::kFloat64) / 0.02;
  EXPECT_NEAR(z.mean().item<double>(), 0, 5 / std::sqrt(4e5));
  EXPECT_NEAR(z.std().item<double>(), 1, 0.01);
  EXPECT_NEAR((z.abs() < 1).to(torch::kFloat64).mean().item<double>(), 0.6827, 0.01);
  EXPECT_NEAR((z.abs() < 2).to(torch::kFloat64).mean().item<double>(), 0.9545, 0.005);
}

TEST(Initialisation, ProductScalingGivesTheEntriesOfABTheirStd) {
  const auto stds = low_rank_stds(300, 20, 0.02, LowRankInit::kProduct);
  torch::Tensor A = torch::empty({300, 20}), B = torch::empty({20, 400});
  fill_normal(A, stds.A, 1, 1);
  fill_normal(B, stds.B, 1, 2);
  EXPECT_NEAR(torch::mm(A, B).std().item<double>(), 0.02, 0.002);
}

}  // namespace
}  // namespace crnet
