#include "crnet/train/optimizer.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "crnet/train/schedule.h"
#include "gradcheck.h"

namespace crnet {
namespace {

using testing::relative_error;

torch::OrderedDict<std::string, torch::Tensor> some_parameters(torch::Device device = torch::kCPU) {
  torch::OrderedDict<std::string, torch::Tensor> parameters;
  torch::manual_seed(3);
  const auto insert = [&](const char* name, const torch::Tensor& values) {
    parameters.insert(name, values.to(device).requires_grad_());
  };
  insert("model.embed_tokens.weight", torch::randn({7, 4}));
  insert("model.layers.1.mlp.up_proj.A", torch::randn({4, 2}));
  insert("model.layers.1.mlp.up_proj.beta", torch::ones({}));
  insert("model.norm.weight", torch::ones({4}));
  return parameters;
}

void fill_gradients(const torch::OrderedDict<std::string, torch::Tensor>& parameters, int step) {
  torch::manual_seed(100 + step);
  for (const auto& item : parameters) item.value().mutable_grad() = torch::randn_like(item.value());
}

// The update from the paper, in fp64.
struct PlainAdamW {
  torch::Tensor weight, m, v;
  void step(const torch::Tensor& gradient, const OptimizerConfig& c, double lr, double decay,
            int64_t t) {
    m = c.beta1 * m + (1 - c.beta1) * gradient;
    v = c.beta2 * v + (1 - c.beta2) * gradient.square();
    const auto m_hat = m / (1 - std::pow(c.beta1, t)), v_hat = v / (1 - std::pow(c.beta2, t));
    weight = weight * (1 - lr * decay) - lr * m_hat / (v_hat.sqrt() + c.epsilon);
  }
};

void expect_updates_match_the_formula(torch::Device device) {
  OptimizerConfig config;
  config.weight_decay = 0.1;
  config.clip_norm = 0.5;
  const auto parameters = some_parameters(device);
  std::vector<PlainAdamW> plain;
  for (const auto& item : parameters) {
    const auto w = item.value().detach().to(torch::kFloat64);
    plain.push_back({w.clone(), torch::zeros_like(w), torch::zeros_like(w)});
  }
  AdamW optimizer(parameters, config);
  for (int step = 1; step <= 5; ++step) {
    fill_gradients(parameters, step);
    double squares = 0;
    for (const auto& item : parameters) {
      squares += (item.value().grad().to(torch::kFloat64) / 2).square().sum().item<double>();
    }
    const double norm = std::sqrt(squares);
    for (size_t i = 0; i < plain.size(); ++i) {
      const auto& item = parameters[i];
      const auto gradient = item.value().grad().to(torch::kFloat64) / 2 * (0.5 / norm);
      plain[i].step(gradient, config, 1e-2, has_weight_decay(item.key()) ? 0.1 : 0.0, step);
    }
    EXPECT_NEAR(optimizer.clip_grad_norm(config.clip_norm, /*num_accumulated=*/2), norm,
                1e-5 * norm);
    optimizer.step(1e-2);
    optimizer.zero_grad();
  }
  for (size_t i = 0; i < plain.size(); ++i) {
    EXPECT_LT(relative_error(parameters[i].value(), plain[i].weight), 1e-6)
        << parameters[i].key() << ", " << device;
  }
}

TEST(AdamWUpdate, MatchesTheFormulaWithClippingAndAccumulation) {
  for (const auto& device : testing::devices()) expect_updates_match_the_formula(device);
}

TEST(AdamWUpdate, DecaysMatricesAlone) {
  EXPECT_TRUE(has_weight_decay("lm_head.weight"));
  EXPECT_TRUE(has_weight_decay("model.layers.3.self_attn.q_proj.A"));
  EXPECT_TRUE(has_weight_decay("model.layers.0.self_attn.q_proj.weight"));
  EXPECT_FALSE(has_weight_decay("model.layers.3.self_attn.q_proj.beta"));
  EXPECT_FALSE(has_weight_decay("model.layers.3.post_attention_layernorm.weight"));
  EXPECT_FALSE(has_weight_decay("model.norm.weight"));
  EXPECT_FALSE(has_weight_decay("model.embed_tokens.weight"));
}

void expect_restored_state_goes_on_to_the_bit(torch::Device device) {
  const OptimizerConfig config;
  const auto straight = some_parameters(device), resumed = some_parameters(device);
  AdamW one(straight, config);
  auto first = std::make_unique<AdamW>(resumed, config);
  const auto update = [](AdamW& optimizer, const auto& parameters, int step) {
    fill_gradients(parameters, step);
    optimizer.clip_grad_norm(1.0);
    optimizer.step(1e-2);
  };
  for (int step = 0; step < 3; ++step) update(one, straight, step), update(*first, resumed, step);
  std::vector<torch::Tensor> saved;
  for (const auto& piece : first->state()) saved.push_back(piece.values.clone());
  AdamW second(resumed, config);
  auto target = second.state();
  for (size_t i = 0; i < saved.size(); ++i) target[i].values.copy_(saved[i]);
  second.state_loaded();
  for (int step = 3; step < 6; ++step) update(one, straight, step), update(second, resumed, step);
  for (size_t i = 0; i < straight.size(); ++i) {
    EXPECT_TRUE(torch::equal(straight[i].value(), resumed[i].value()))
        << straight[i].key() << ", " << device;
  }
}

TEST(AdamWUpdate, RestoredStateGoesOnToTheBit) {
  for (const auto& device : testing::devices()) expect_restored_state_goes_on_to_the_bit(device);
}

TEST(AdamWUpdate, ANonFiniteGradientShowsInTheNorm) {
  const auto parameters = some_parameters();
  AdamW optimizer(parameters, {});
  fill_gradients(parameters, 0);
  parameters[1].value().mutable_grad()[0][0] = NAN;
  EXPECT_FALSE(std::isfinite(optimizer.clip_grad_norm(1.0)));
}

TEST(LearningRate, WarmsUpLinearlyAndReachesThePeak) {
  ScheduleConfig schedule;
  schedule.warmup_steps = 4;
  EXPECT_DOUBLE_EQ(learning_rate(schedule, 1.0, 0, 100), 0.25);
  EXPECT_DOUBLE_EQ(learning_rate(schedule, 1.0, 3, 100), 1.0);
  EXPECT_DOUBLE_EQ(learning_rate(schedule, 1.0, 4, 100), 1.0);
}

TEST(LearningRate, CosineEndsAtItsFloorAndIsHalfWayInTheMiddle) {
  ScheduleConfig schedule;
  schedule.warmup_steps = 0;
  schedule.final_lr_ratio = 0.2;
  EXPECT_NEAR(learning_rate(schedule, 1.0, 50, 101), 0.6, 1e-12);
  EXPECT_NEAR(learning_rate(schedule, 1.0, 100, 101), 0.2, 1e-12);
  EXPECT_NEAR(learning_rate(schedule, 1.0, 500, 101), 0.2, 1e-12);
}

TEST(LearningRate, WsdIsStableThenFallsLinearlyToItsFloor) {
  ScheduleConfig schedule;
  schedule.kind = ScheduleKind::kWsd;
  schedule.warmup_steps = 10;
  schedule.decay_steps = 20;
  schedule.final_lr_ratio = 0;
  EXPECT_DOUBLE_EQ(learning_rate(schedule, 1.0, 79, 100), 1.0);
  EXPECT_NEAR(learning_rate(schedule, 1.0, 89, 100), 0.5, 1e-12);
  EXPECT_NEAR(learning_rate(schedule, 1.0, 99, 100), 0.0, 1e-12);
}

TEST(LearningRate, ConstantStays) {
  ScheduleConfig schedule;
  schedule.kind = ScheduleKind::kConstant;
  schedule.warmup_steps = 1;
  for (const int64_t step : {1, 50, 99}) EXPECT_EQ(learning_rate(schedule, 0.3, step, 100), 0.3);
}

}  // namespace
}  // namespace crnet
