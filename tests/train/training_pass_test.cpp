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
  OneProcess(const RunConfig& config, torch::Device device,
             torch::ScalarType dtype = torch::kFloat32)
      : is_cuda(device.is_cuda()),
        state(config, {.device = device, .compute_dtype = dtype},
              make_plan(config.recompute, config.model), group) {
    state.initialize(7);
  }
  /// The losses of a step's micro-batches, then the gradients before the update.
  std::vector<Tensor> step(int64_t number, int64_t num_micro_batches) {
    std::vector<Tensor> results;
    for (int64_t i = 0; i < num_micro_batches; ++i) {
      // Page-locked, as the loader's, so that not even the copy is waited for.
      Batch batch = random_batch(10 * number + i);
      if (is_cuda) batch = {batch.inputs.pin_memory(), batch.targets.pin_memory()};
      results.push_back(state.pass.run(batch, /*reduce=*/true));
    }
    for (const auto& parameter : state.model->parameters()) {
      results.push_back(parameter.grad().clone());
    }
    state.optimizer.clip_grad_norm(1.0, num_micro_batches);
    state.optimizer.step(1e-3);
    state.optimizer.zero_grad();
    return results;
  }

  bool is_cuda;
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

void copy_weights(const CausalLMImpl& from, const CausalLMImpl& to) {
  const torch::NoGradGuard no_grad;
  const auto source = from.parameters(), target = to.parameters();
  for (size_t i = 0; i < source.size(); ++i) Tensor(target[i]).copy_(source[i]);
}

class TrainingPassOnAGpu
    : public ::testing::TestWithParam<std::tuple<RecomputeStrategy, torch::ScalarType>> {};

// Weights move on, and so must what the graphs read; steps of one micro-batch and of three. Both
// start each step with the same weights: AdamW makes much of small differences.
TEST_P(TrainingPassOnAGpu, ARecordedPassGivesTheSameGradients) {
  if (!torch::cuda::is_available()) GTEST_SKIP() << "no GPU that LibTorch can use";
  const auto [strategy, dtype] = GetParam();
  RunConfig config = small_run(strategy);
  OneProcess plain(config, {torch::kCUDA, 0}, dtype);
  config.train.cuda_graphs = true;
  OneProcess recorded(config, {torch::kCUDA, 0}, dtype);
  for (int64_t step = 1; step <= 8; ++step) {
    const int64_t num_micro_batches = step % 2 == 0 ? 3 : 1;
    copy_weights(*plain.state.model, *recorded.state.model);
    const auto expected = plain.step(step, num_micro_batches);
    const auto got = recorded.step(step, num_micro_batches);
    ASSERT_EQ(got.size(), expected.size());
    for (size_t i = 0; i < got.size(); ++i) {
      // LibTorch's attention adds gradients up in any order.
      EXPECT_LT(testing::relative_error(got[i], expected[i]),
                dtype == torch::kFloat32 ? 1e-5 : 2e-2)
          << "step " << step << ", " << i;
    }
  }
}

void expect_pass_without_waiting(RecomputeStrategy strategy, torch::ScalarType dtype) {
  OneProcess run(small_run(strategy), {torch::kCUDA, 0}, dtype);
  for (int64_t step = 1; step <= 2; ++step) (void)run.step(step, 2);  // libraries start up
  Batch batch = random_batch(1);
  batch = {batch.inputs.pin_memory(), batch.targets.pin_memory()};
  const NoWaiting no_waiting;
  EXPECT_NO_THROW((void)run.state.pass.run(batch, /*reduce=*/true));
}

TEST_P(TrainingPassOnAGpu, NothingWaitsForTheDevice) {
  if (!torch::cuda::is_available()) GTEST_SKIP() << "no GPU that LibTorch can use";
  expect_pass_without_waiting(std::get<0>(GetParam()), std::get<1>(GetParam()));
}

TEST(NoWaitingOnAGpu, LibTorchThrowsExceptWhereItMayWait) {
  if (!torch::cuda::is_available()) GTEST_SKIP() << "no GPU that LibTorch can use";
  const torch::Tensor one = torch::ones({}, torch::kCUDA);
  const NoWaiting no_waiting;
  EXPECT_THROW((void)one.item<float>(), c10::Error);
  {
    const MayWait here;
    EXPECT_EQ(one.item<float>(), 1);
  }
  EXPECT_THROW((void)one.item<float>(), c10::Error);
}

// It reads every β, and says so.
TEST(TrainingPassOfAnInvertingPlanOnAGpu, MayWaitWhereItReadsScales) {
  if (!torch::cuda::is_available()) GTEST_SKIP() << "no GPU that LibTorch can use";
  for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
    expect_pass_without_waiting(RecomputeStrategy::kInverse, dtype);
  }
}

std::string name_of(const ::testing::TestParamInfo<TrainingPassOnAGpu::ParamType>& info) {
  const auto [strategy, dtype] = info.param;
  return std::string(enum_name(strategy)) + "_" + torch::toString(dtype);
}

INSTANTIATE_TEST_SUITE_P(Strategies, TrainingPassOnAGpu,
                         ::testing::Combine(::testing::Values(RecomputeStrategy::kNone,
                                                              RecomputeStrategy::kFull,
                                                              RecomputeStrategy::kReplay),
                                            ::testing::Values(torch::kFloat32, torch::kBFloat16)),
                         name_of);

}  // namespace
}  // namespace crnet
