#include "train/training_pass.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "crnet/core/error.h"
#include "gradcheck.h"
#include "train/run_state.h"

namespace crnet {
namespace {

using torch::Tensor;

RunConfig small_run(RecomputeStrategy strategy) {
  RunConfig config;
  ModelConfig& model = config.model;
  model.architecture = Architecture::kCRNet;
  model.vocab_size = 64;
  model.hidden_size = 32;
  model.num_layers = 3;
  model.num_heads = 4;
  model.ffn_size = 72;
  model.r = int64_t{8};
  model.max_sequence_length = 16;
  config.recompute.strategy = strategy;
  return config;
}

Batch random_batch(int64_t seed) {
  torch::manual_seed(seed);
  const Tensor text = torch::randint(64, {2, 17});
  return {text.slice(1, 0, -1).contiguous(), text.slice(1, 1).contiguous()};
}

/// A run's state on a device, in one process.
struct OneProcess {
  OneProcess(const RunConfig& config, torch::Device device)
      : state(config, {.device = device}, make_plan(config.recompute, config.model), group) {
    state.initialize(7);
  }
  /// The losses of a step's micro-batches, then the gradients before the update.
  std::vector<Tensor> step(int64_t number, int64_t num_micro_batches) {
    std::vector<Tensor> results;
    for (int64_t i = 0; i < num_micro_batches; ++i) {
      results.push_back(state.pass.run(random_batch(10 * number + i), /*reduce=*/true));
    }
    for (const auto& parameter : state.model->parameters()) {
      results.push_back(parameter.grad().clone());
    }
    state.optimizer.clip_grad_norm(1.0, num_micro_batches);
    state.optimizer.step(1e-3);
    state.optimizer.zero_grad();
    return results;
  }

  Group group;
  RunState state;
};

TEST(TrainingPass, AddsGradientsAndReturnsTheLoss) {
  OneProcess run(small_run(RecomputeStrategy::kNone), torch::kCPU);
  auto& model = *run.state.model;
  const Batch first = random_batch(1), second = random_batch(2);
  const Tensor loss =
      model.loss(first.inputs, first.targets) + model.loss(second.inputs, second.targets);
  const auto expected = torch::autograd::grad({loss}, model.parameters());
  const Tensor sum = run.state.pass.run(first, true) + run.state.pass.run(second, true);
  EXPECT_LT(testing::relative_error(sum, loss.detach()), 1e-6);
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_LT(testing::relative_error(model.parameters()[i].grad(), expected[i]), 1e-5) << i;
  }
}

TEST(TrainingPass, IsNotRecordedWhereThatCannotBe) {
  RunConfig config = small_run(RecomputeStrategy::kNone);
  config.train.cuda_graphs = true;
  try {
    const OneProcess run(config, torch::kCPU);
    FAIL() << "expected an error";
  } catch (const UsageError& error) {
    EXPECT_STREQ(
        error.what(),
        "[train] train.cuda_graphs: expected a run on a GPU, got one on the cpu; use --set "
        "train.cuda_graphs=false");
  }
}

class TrainingPassOnAGpu : public ::testing::TestWithParam<RecomputeStrategy> {};

// Weights move on, and so must what the graphs read; steps of one micro-batch and of three.
TEST_P(TrainingPassOnAGpu, ARecordedPassGivesTheSameGradients) {
  if (!torch::cuda::is_available()) GTEST_SKIP() << "no GPU that LibTorch can use";
  RunConfig config = small_run(GetParam());
  OneProcess plain(config, {torch::kCUDA, 0});
  config.train.cuda_graphs = true;
  OneProcess recorded(config, {torch::kCUDA, 0});
  for (int64_t step = 1; step <= 8; ++step) {
    const int64_t num_micro_batches = step % 2 == 0 ? 3 : 1;
    const auto expected = plain.step(step, num_micro_batches);
    const auto got = recorded.step(step, num_micro_batches);
    ASSERT_EQ(got.size(), expected.size());
    for (size_t i = 0; i < got.size(); ++i) {
      // LibTorch's attention adds gradients up in any order.
      EXPECT_LT(testing::relative_error(got[i], expected[i]), 1e-5) << "step " << step << ", " << i;
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Strategies, TrainingPassOnAGpu,
                         ::testing::Values(RecomputeStrategy::kNone, RecomputeStrategy::kFull,
                                           RecomputeStrategy::kReplay),
                         [](const auto& info) { return std::string(enum_name(info.param)); });

TEST(TrainingPassRecording, IsNotRecordedWithAPlanThatInverts) {
  if (!torch::cuda::is_available()) GTEST_SKIP() << "no GPU that LibTorch can use";
  RunConfig config = small_run(RecomputeStrategy::kInverse);
  config.train.cuda_graphs = true;
  EXPECT_THROW(OneProcess(config, {torch::kCUDA, 0}), UsageError);
}

}  // namespace
}  // namespace crnet
