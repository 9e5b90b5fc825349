// What only a GPU shows of the operators: that sums have one order, that nothing waits for the
// device (a CUDA graph would not allow it), and what they do where a CPU would check.
#include <gtest/gtest.h>
#include <torch/torch.h>

#ifdef CRNET_CUDA
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAGuard.h>
#endif

#include "crnet/ops/linear_cross_entropy.h"
#include "crnet/ops/low_rank_residual.h"
#include "crnet/ops/matrix_product.h"
#include "crnet/ops/rms_norm.h"
#include "crnet/ops/rope.h"
#include "crnet/ops/swiglu.h"
#include "gradcheck.h"

namespace crnet {
namespace {

using torch::Tensor;
using Tensors = std::vector<Tensor>;

class OperatorsOnAGpu : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!torch::cuda::is_available()) GTEST_SKIP() << "no GPU that LibTorch can use";
  }
};
class KernelsOnAGpu : public OperatorsOnAGpu {
 protected:
  void SetUp() override {
    OperatorsOnAGpu::SetUp();
#ifndef CRNET_CUDA
    GTEST_SKIP() << "built without CUDA kernels";
#endif
  }
};

/// Every operator once, in sizes that leave something over, and a mean loss with gradients of all.
class EveryOperator {
 public:
  explicit EveryOperator(torch::ScalarType dtype) {
    const auto random = [](std::vector<int64_t> sizes) {
      return torch::randn(sizes, torch::kCUDA);
    };
    for (const auto& t :
         {random({2, 300, 514}).to(dtype), random({514}), random({514, 63}), random({63, 514}),
          random({}), random({1009, 514}), random({514, 64}), random({64, 514})}) {
      leaves_.push_back(testing::leaf(t));
    }
  }
  /// The loss, then the gradients.
  [[nodiscard]] Tensors run() const {
    const auto& t = leaves_;
    const auto normed = rms_norm(t[0], t[1], 1e-5);
    const auto turned = rope(normed.view({2, 300, 1, 514}), cosine_, sine_).flatten(2);
    // Two residuals that share X A's product, and a third above them: one gradient is carried.
    const auto low = matrix_products(turned, {t[2], t[6]}, WeightLayout::kInOut);
    LowRankProducts first, second;
    const auto below = cross_layer_sum(low[0], t[3], t[0], t[4], 1e-6, first) +
                       cross_layer_sum(low[1], t[7], t[0], t[4], 1e-6, second);
    const auto middle = low_rank_residual(turned, t[2], t[3], below, t[4], 1e-6);
    const auto y = low_rank_residual(turned, t[6], t[7], middle, t[4], 1e-6) + middle;
    const auto loss =
        linear_cross_entropy(swiglu(y, normed).flatten(0, 1), t[5], targets_, /*chunk_rows=*/100);
    Tensors results = torch::autograd::grad({loss}, leaves_);
    results.insert(results.begin(), loss.detach());
    return results;
  }

 private:
  Tensors leaves_;
  Tensor cosine_ = rope_table(300, 514, 100.0).cosine.to(torch::kCUDA);
  Tensor sine_ = rope_table(300, 514, 100.0).sine.to(torch::kCUDA);
  Tensor targets_ = torch::randint(1009, {600}).to(torch::kCUDA);
};

void expect_equal(const Tensors& got, const Tensors& expected) {
  ASSERT_EQ(got.size(), expected.size());
  for (size_t i = 0; i < got.size(); ++i) {
    EXPECT_TRUE(torch::equal(got[i], expected[i])) << "result " << i;
    EXPECT_TRUE(got[i].isfinite().all().item<bool>()) << "result " << i;
  }
}

TEST_F(KernelsOnAGpu, ARunRepeatsBitByBit) {
  for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
    const EveryOperator operators(dtype);
    const auto expected = operators.run();
    expect_equal(operators.run(), expected);
  }
}

TEST_F(KernelsOnAGpu, AGraphGivesTheSameBits) {
#ifdef CRNET_CUDA
  for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
    const c10::cuda::CUDAStreamGuard guard(c10::cuda::getStreamFromPool());
    const EveryOperator operators(dtype);
    const auto expected = operators.run();
    torch::cuda::synchronize();
    at::cuda::CUDAGraph graph;
    graph.capture_begin();
    const auto captured = operators.run();
    graph.capture_end();
    graph.replay();
    torch::cuda::synchronize();
    expect_equal(captured, expected);
  }
#endif
}

TEST_F(OperatorsOnAGpu, ATargetOutsideTheVocabularyMakesTheLossNaN) {
  const auto targets = torch::tensor(std::vector<int64_t>{1, 6}).to(torch::kCUDA);
  for (const auto dtype : {torch::kFloat32, torch::kFloat64}) {
    const auto options = torch::TensorOptions().device(torch::kCUDA).dtype(dtype);
    const auto loss =
        linear_cross_entropy(torch::randn({2, 4}, options), torch::randn({6, 4}, options), targets);
    EXPECT_TRUE(std::isnan(loss.item<double>()));
  }
}

}  // namespace
}  // namespace crnet
