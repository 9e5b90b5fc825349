// What the operators of recomputation leave behind.
#include "crnet/ops/low_rank_residual.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <torch/torch.h>

#include <array>
#include <cmath>

#include "crnet/core/error.h"
#include "gradcheck.h"
#include "ops/cuda/residual_layout.h"

namespace crnet {
namespace {

using testing::relative_error;
using torch::Tensor;

int64_t peak_resident_mib() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss / 1024;
}

// LibTorch's library of products keeps compiled kernels for every scale that it has met: with 1/c
// among them, a training whose β moves grew by 1.1 GiB in 100 steps.
TEST(InvertLowRankResidual, AChangingScaleDoesNotGrowTheProcess) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "the sanitizer keeps freed memory";
#endif
  const auto options = torch::dtype(torch::kBFloat16);
  const torch::Tensor low = torch::randn({512, 64}, options), B = torch::randn({64, 256}, options),
                      y = torch::randn({512, 256}, options);
  const auto invert = [&](int first, int last) {
    for (int i = first; i < last; ++i) {
      static_cast<void>(invert_low_rank_residual(low, B, y, 1 + 1e-4 * i));
    }
  };
  invert(0, 10);
  const int64_t before = peak_resident_mib();
  invert(10, 600);
  EXPECT_LT(peak_resident_mib() - before, 32);
}

TEST(InvertLowRankResidual, UndoesTheForwardPass) {
  for (const double beta : {1.0, -0.5, 3.0}) {
    const torch::Tensor low = torch::randn({7, 3}, torch::kFloat64),
                        B = torch::randn({3, 5}, torch::kFloat64),
                        y_prev = torch::randn({7, 5}, torch::kFloat64);
    const torch::Tensor y =
        replay_low_rank_residual(low, B, y_prev, torch::full({}, beta, torch::kFloat64), 1e-6);
    const double c = beta + (beta >= 0 ? 1e-6 : -1e-6);
    EXPECT_TRUE(torch::allclose(invert_low_rank_residual(low, B, y, c), y_prev, 1e-12, 1e-12));
  }
}

// Few rows and many, whole and odd sizes, Y in rows that lie apart.
TEST(ReplayAndInversion, MatchPlainOverDtypesAndOddSizes) {
  torch::manual_seed(5);
  constexpr double kEpsilon = 1e-6, kBeta = -0.7, kC = kBeta - kEpsilon;
  for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
    for (const auto& [rows, R, out] :
         {std::array<int64_t, 3>{5, 3, 7}, {70, 16, 33}, {67, 5, 48}, {130, 64, 64}}) {
      SCOPED_TRACE(::testing::Message() << dtype << ", " << rows << " x " << R << " x " << out);
      const Tensor low = torch::randn({2, rows, R}).to(dtype), B = torch::randn({R, out});
      const Tensor y_prev = torch::randn({2, rows, out + 3}).to(dtype).narrow(-1, 1, out);
      const auto wide = [](const Tensor& t) { return t.to(torch::kFloat64); };
      const Tensor product = torch::matmul(wide(low), wide(B.to(dtype)));
      const Tensor y = replay_low_rank_residual(low, B, y_prev, torch::full({}, kBeta), kEpsilon);
      EXPECT_LT(relative_error(y, kC * wide(y_prev) + product), testing::tolerance_of(dtype));
      // From a Y that was not rounded away from the product, so that the formula is all there is.
      const Tensor inverted = invert_low_rank_residual(low, B, y, kC);
      const double tolerance = testing::tolerance_of(dtype) * std::sqrt(static_cast<double>(R));
      EXPECT_LT(relative_error(inverted, (wide(y) - product) / kC), tolerance);
      EXPECT_EQ(inverted.scalar_type(), dtype);
    }
  }
}

// Y and Y_prev with rows wider than B's: B counts as having zeros there.
TEST(CrossLayerSum, WiderRowsAreThoseOfAFactorWithZeros) {
  torch::manual_seed(8);
  constexpr int64_t kRank = 6, kOut = 29, kWide = 32;
  for (const auto& device : testing::devices()) {
    for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
      const auto on = torch::TensorOptions().device(device);
      const Tensor low = testing::leaf(torch::randn({70, kRank}, on).to(dtype));
      const Tensor B = testing::leaf(torch::randn({kRank, kOut}, on));
      const Tensor y_prev = testing::leaf(torch::randn({70, kWide}, on).to(dtype));
      const Tensor beta = testing::leaf(torch::full({}, 0.8, on));
      const Tensor padded = torch::constant_pad_nd(B, {0, kWide - kOut});
      LowRankProducts one, other;
      const Tensor got = cross_layer_sum(low, B, y_prev, beta, 1e-6, one, kWide);
      const Tensor expected = cross_layer_sum(low, padded, y_prev, beta, 1e-6, other);
      EXPECT_TRUE(torch::equal(got, expected)) << device << " " << dtype;
      const auto gradients = torch::autograd::grad({got.square().sum()}, {low, B, y_prev, beta});
      const auto of_padded =
          torch::autograd::grad({expected.square().sum()}, {low, B, y_prev, beta});
      for (size_t i = 0; i < gradients.size(); ++i) {
        EXPECT_TRUE(torch::equal(gradients[i], of_padded[i])) << i << " " << device << " " << dtype;
      }
      EXPECT_TRUE(torch::equal(replay_low_rank_residual(low, B, y_prev, beta, 1e-6), got));
      EXPECT_LT(relative_error(invert_low_rank_residual(low, B, got, 0.8 + 1e-6), y_prev),
                testing::tolerance_of(dtype));
      EXPECT_THROW(cross_layer_sum(low, B, y_prev, beta, 1e-6, other), Error);
    }
  }
}

// cuBLAS's definition, over memory of row-major tensors: result(i, j) = c · addend(i, j) + Σ_k
// left(i, k) · right(k, j).
TEST(ResidualLayout, IsHowAColumnMajorProductReadsRowMajorTensors) {
  const int64_t tokens = 5, rank = 3, out = 7;
  const Tensor wide = torch::randn({tokens, rank + 2}), low = wide.narrow(1, 0, rank);
  const Tensor B = torch::randn({rank, out});
  const Tensor y_prev = torch::randn({tokens, out}), y = torch::full({tokens, out}, NAN);
  const auto layout = cuda::residual_layout(tokens, rank, out, low.stride(0));
  const auto at = [](const Tensor& t, const cuda::ColumnMajor& m, int64_t i, int64_t j) -> float& {
    EXPECT_LT(i, m.rows);
    EXPECT_LT(j, m.columns);
    EXPECT_LT(i + j * m.leading, t.numel());
    return t.data_ptr<float>()[i + j * m.leading];
  };
  ASSERT_EQ(layout.left.columns, layout.right.rows);
  ASSERT_EQ(layout.left.rows, layout.result.rows);
  ASSERT_EQ(layout.right.columns, layout.result.columns);
  for (int64_t i = 0; i < layout.result.rows; ++i) {
    for (int64_t j = 0; j < layout.result.columns; ++j) {
      float sum = 0.7f * at(y_prev, layout.result, i, j);
      for (int64_t k = 0; k < layout.left.columns; ++k) {
        sum += at(B, layout.left, i, k) * at(wide, layout.right, k, j);
      }
      at(y, layout.result, i, j) = sum;
    }
  }
  EXPECT_LT(relative_error(y, 0.7f * y_prev + torch::mm(low, B)), 1e-6);
}

class LowRankResidualOnAGpu : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!torch::cuda::is_available()) GTEST_SKIP() << "no GPU that LibTorch can use";
  }
  static Tensor random(std::vector<int64_t> sizes, torch::ScalarType dtype) {
    return torch::randn(sizes, torch::kCUDA).to(dtype);
  }
  // The same values `shift` elements further on in memory.
  static Tensor shifted(const Tensor& t, int64_t shift) {
    const Tensor all = torch::zeros({t.numel() + shift}, t.options());
    return all.narrow(0, shift, t.numel()).view(t.sizes()).copy_(t);
  }
};

TEST_F(LowRankResidualOnAGpu, IsThatOfFp64OverOddSizes) {
  for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
    for (const auto& [tokens, rank, out] :
         {std::array<int64_t, 3>{1, 1, 1}, {33, 7, 65}, {257, 31, 3}, {512, 128, 1376}}) {
      SCOPED_TRACE(::testing::Message() << tokens << " x " << rank << " x " << out << " " << dtype);
      const Tensor low = random({tokens, rank}, dtype), B = random({rank, out}, torch::kFloat32);
      const Tensor y_prev = random({tokens, out}, dtype);
      const Tensor beta = torch::full({}, -0.8, torch::kCUDA);
      const Tensor y = replay_low_rank_residual(low, B, y_prev, beta, 1e-6);
      const Tensor product = torch::mm(low.to(torch::kFloat64), B.to(dtype).to(torch::kFloat64));
      const Tensor expected = -(0.8 + 1e-6) * y_prev.to(torch::kFloat64) + product;
      EXPECT_LT(relative_error(y, expected), testing::tolerance_of(dtype));
    }
  }
}

TEST_F(LowRankResidualOnAGpu, ReplayIsTheForwardPassToTheBitWhereverTensorsLie) {
#ifndef CRNET_CUDA
  GTEST_SKIP() << "built without CUDA kernels: LibTorch's product may depend on where tensors lie";
#endif
  for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
    for (const auto& [tokens, rank, out] :
         {std::array<int64_t, 3>{33, 7, 65}, {512, 128, 512}, {2048, 128, 1376}}) {
      const Tensor x = random({tokens, 64}, dtype), A = random({64, rank}, torch::kFloat32);
      const Tensor B = random({rank, out}, torch::kFloat32), y_prev = random({tokens, out}, dtype);
      const Tensor beta = torch::full({}, 0.9, torch::kCUDA);
      LowRankProducts products;
      const Tensor y = low_rank_residual(x, A, B, y_prev, beta, 1e-6, products);
      for (const int64_t shift : {0, 1, 8}) {
        const Tensor again = replay_low_rank_residual(shifted(products.low, shift), B,
                                                      shifted(y_prev, shift), beta, 1e-6);
        EXPECT_TRUE(torch::equal(again, y)) << dtype << ", shifted by " << shift;
      }
    }
  }
}

TEST_F(LowRankResidualOnAGpu, InversionUndoesTheForwardPass) {
  const Tensor low = random({65, 8}, torch::kFloat32), B = random({8, 33}, torch::kFloat32);
  const Tensor y_prev = random({65, 33}, torch::kFloat32);
  const Tensor y =
      replay_low_rank_residual(low, B, y_prev, torch::full({}, -0.5, torch::kCUDA), 1e-6);
  EXPECT_LT(relative_error(invert_low_rank_residual(low, B, y, -0.5 - 1e-6), y_prev), 1e-5);
}

}  // namespace
}  // namespace crnet
