// A group of one process has nothing to say, and yet takes every way through its backend: on a
// machine with one GPU, what NCCL and the streams of CUDA make of it.
#include "dist/sharded_unit.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torch/csrc/distributed/c10d/HashStore.hpp>

#include "dist/process_group.h"

namespace crnet {
namespace {

using torch::Tensor;

struct Case {
  std::string name;
  torch::DeviceType device;
  torch::ScalarType dtype, wire;
  bool releases;
};

class ShardedUnitTest : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    if (GetParam().device == torch::kCUDA && !torch::cuda::is_available()) {
      GTEST_SKIP() << "no GPU that LibTorch can use";
    }
    Launch launch;
    launch.world_size = launch.local_world_size = 1;
    DistConfig config;
    config.shard = Sharding::kParameters;
    config.timeout_s = 60;
    groups_ = make_process_groups(c10::make_intrusive<c10d::HashStore>(), launch, config, device());
  }

  [[nodiscard]] torch::Device device() const { return {GetParam().device}; }
  // 0, 1, 2, …, which bf16 holds up to 256.
  [[nodiscard]] Tensor counting(const std::vector<int64_t>& shape) const {
    const auto options = torch::TensorOptions(device()).dtype(GetParam().dtype);
    return torch::arange(c10::multiply_integers(shape), options).view(shape);
  }

  ProcessGroups groups_;
};

TEST_P(ShardedUnitTest, GathersItsWeightsAndKeepsTheMeanOfItsGradients) {
  const Case& c = GetParam();
  std::vector<Tensor> parameters = {counting({5, 7}).requires_grad_(),
                                    counting({3, 64}).requires_grad_()};
  const ParameterUnit layout{{{"a", parameters[0]}, {"b", parameters[1]}}, c.dtype};
  ShardedUnit unit(layout, groups_.shard, /*replicas=*/groups_.shard, device(), c.releases);
  ASSERT_EQ(unit.pieces().size(), 2U);
  {
    const torch::NoGradGuard no_grad;
    for (const auto& piece : unit.pieces()) {
      Tensor values = piece.values.detach().view({-1});
      values.copy_(torch::arange(values.numel(), values.options()));
    }
  }
  for (int64_t step = 1; step <= 20; ++step) {
    unit.start_gather();
    unit.wait_for_weights();
    const Tensor weights[] = {counting({5, 7}) + (step - 1), counting({3, 64}) + (step - 1)};
    Tensor loss = torch::zeros({}, device());
    for (size_t i = 0; i < 2; ++i) {
      EXPECT_TRUE(torch::equal(parameters[i].detach(), weights[i])) << "step " << step;
      loss = loss + (parameters[i] * static_cast<double>(i + 1)).sum();
    }
    loss.backward();
    unit.release_weights();
    EXPECT_EQ(parameters[0].storage().nbytes() == 0, c.releases);
    EXPECT_FALSE(unit.take_gradient(1, /*last_micro_batch=*/true, c.wire));
    EXPECT_TRUE(unit.take_gradient(0, /*last_micro_batch=*/true, c.wire));
    unit.finish_sum();
    unit.finish_mean(/*count=*/1);
    const torch::NoGradGuard no_grad;
    for (size_t i = 0; i < 2; ++i) {
      const auto& piece = unit.pieces()[i];
      EXPECT_TRUE(piece.values.grad().eq(static_cast<double>(i + 1)).all().item<bool>());
      piece.values.detach().add_(1);  // an update
    }
    unit.forget_weights();
  }
}

constexpr auto kFp32 = torch::kFloat32, kBf16 = torch::kBFloat16;

INSTANTIATE_TEST_SUITE_P(
    Backends, ShardedUnitTest,
    ::testing::Values(Case{"gloo_fp32", torch::kCPU, kFp32, kFp32, false},
                      Case{"gloo_bf16_released", torch::kCPU, kBf16, kBf16, true},
                      Case{"nccl_fp32", torch::kCUDA, kFp32, kFp32, false},
                      Case{"nccl_fp32_released", torch::kCUDA, kFp32, kFp32, true},
                      Case{"nccl_bf16_released", torch::kCUDA, kBf16, kBf16, true}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace crnet
