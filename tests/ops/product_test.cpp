// Products against fp64, and those that bf16 takes on a processor without instructions for it.
#include "ops/product.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "crnet/core/error.h"
#include "gradcheck.h"

namespace crnet {
namespace {

using testing::relative_error;
using testing::tolerance_of;
using torch::Tensor;

struct Factors {
  Tensor left, right;
};

// Every way to lie, in sizes that no tile divides.
std::vector<Factors> factors(int64_t M, int64_t K, int64_t N, torch::ScalarType dtype) {
  torch::manual_seed(3);
  const auto make = [&](int64_t rows, int64_t columns) {
    return torch::randn({rows, columns}).to(dtype);
  };
  return {{make(M, K), make(K, N)},
          {make(K, M).t(), make(K, N)},
          {make(M, K), make(N, K).t()},
          {make(M, 2 * K).slice(1, 0, K), make(2 * K, N).slice(0, 0, -1, 2)}};
}

TEST(Product, IsThatOfFp64) {
  for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
    for (const auto& [left, right] : factors(33, 65, 17, dtype)) {
      const Tensor expected = at::mm(left.to(torch::kFloat64), right.to(torch::kFloat64));
      const Tensor product = product_of(left, right);
      EXPECT_EQ(product.scalar_type(), dtype);
      EXPECT_LT(relative_error(product, expected), tolerance_of(dtype));
      Tensor out = torch::full_like(product, NAN);
      store_product(out, left, right);
      EXPECT_TRUE(torch::equal(out, product));
      Tensor sum = torch::ones_like(product);
      add_product(sum, left, right);
      EXPECT_LT(relative_error(sum, expected + 1), tolerance_of(dtype));
    }
  }
}

// Half a unit in the last place of bf16, and what fp32 adds.
TEST(WidenedProduct, OfNothingIsZero) {
  Tensor out = torch::ones({3, 2}, torch::kBFloat16);
  detail::multiply_widened(out, torch::empty({3, 0}, torch::kBFloat16),
                           torch::empty({0, 2}, torch::kBFloat16), detail::Into::kOverwrite);
  EXPECT_TRUE(torch::equal(out, torch::zeros_like(out)));
}

TEST(WidenedProduct, RefusesWhatDoesNotFit) {
  Tensor out = torch::empty({3, 2}, torch::kBFloat16);
  const Tensor left = torch::empty({3, 4}, torch::kBFloat16);
  for (const auto& right : {torch::empty({5, 2}, torch::kBFloat16), torch::empty({4, 2})}) {
    EXPECT_THROW(detail::multiply_widened(out, left, right, detail::Into::kAdd), Error);
  }
}

TEST(WidenedProduct, RoundsOnceInAnyNumberOfTiles) {
  for (const auto& [M, K, N] :
       {std::array<int64_t, 3>{1, 1, 1}, {5, 1100, 7}, {1030, 9, 3}, {3, 520, 2050}}) {
    for (const auto& [left, right] : factors(M, K, N, torch::kBFloat16)) {
      const Tensor exact = at::mm(left.to(torch::kFloat64), right.to(torch::kFloat64));
      const auto is_rounded_once = [&](const Tensor& got, const Tensor& expected) {
        const Tensor bound = expected.abs() * 0x1p-8 + 1e-5 * static_cast<double>(K);
        return (got.to(torch::kFloat64) - expected).abs().le(bound).all().item<bool>();
      };
      Tensor product = torch::full({M, N}, NAN, torch::kBFloat16);
      detail::multiply_widened(product, left, right, detail::Into::kOverwrite);
      EXPECT_TRUE(is_rounded_once(product, exact)) << M << " x " << K << " x " << N;
      Tensor sum = torch::full({M, N}, 0.5, torch::kBFloat16);
      detail::multiply_widened(sum, left, right, detail::Into::kAdd);
      EXPECT_TRUE(is_rounded_once(sum, exact + 0.5)) << M << " x " << K << " x " << N;
    }
  }
}

}  // namespace
}  // namespace crnet
