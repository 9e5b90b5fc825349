// Products against fp64, by whichever way this processor takes and by each variant of the kernels.
#include "ops/product.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <array>

#include "gradcheck.h"
#include "ops/cpu_product.h"

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
          {make(M, 2 * K).slice(1, 0, K), make(2 * K, N).slice(0, 0, -1, 2)},
          // Rows, or columns, that lie an odd number apart and begin at an odd one.
          {make(M, 2 * K + 1).slice(1, 1, K + 1), make(N, 2 * K + 1).slice(1, 1, K + 1).t()}};
}

// On either side of where own kernels begin to be faster.
std::vector<Factors> few_and_many_rows(torch::ScalarType dtype) {
  std::vector<Factors> all = factors(33, 65, 17, dtype);
  for (auto& many : factors(70, 64, 17, dtype)) all.push_back(std::move(many));
  return all;
}

TEST(Product, IsThatOfFp64) {
  for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
    for (const auto& [left, right] : few_and_many_rows(dtype)) {
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

// However bf16 factors are multiplied, a result in fp32 is off by no more than one rounding to
// bf16.
TEST(Product, OfBf16FactorsIsGivenInFp32) {
  for (const auto& [left, right] : few_and_many_rows(torch::kBFloat16)) {
    const Tensor expected = at::mm(left.to(torch::kFloat64), right.to(torch::kFloat64));
    Tensor sum = product_as(torch::kFloat32, left, right);
    EXPECT_EQ(sum.scalar_type(), torch::kFloat32);
    EXPECT_LT(relative_error(sum, expected), tolerance_of(torch::kBFloat16));
    add_product(sum, left, right);
    EXPECT_EQ(sum.scalar_type(), torch::kFloat32);
    EXPECT_LT(relative_error(sum, 2 * expected), tolerance_of(torch::kBFloat16));
  }
}

// Whoever multiplies, and however a weight is kept.
TEST(Product, RoundsFp32WeightsToBf16) {
  for (const auto& [left, right] : few_and_many_rows(torch::kBFloat16)) {
    const Tensor weight = right.to(torch::kFloat32) * 1.0017, rounded = weight.to(torch::kBFloat16);
    const Tensor product = product_of(left, rounded), c = torch::full({}, -0.7);
    EXPECT_TRUE(torch::equal(product_of(left, weight), product));
    EXPECT_TRUE(torch::equal(product_of(left, as_factor(weight, left)), product));
    EXPECT_EQ(as_factor(weight, left).is_same(weight),
              rounds_weights_as_packed(torch::kBFloat16, left.size(0)));
    EXPECT_TRUE(torch::equal(product_as(torch::kFloat32, left, weight),
                             product_as(torch::kFloat32, left, rounded)));
    EXPECT_TRUE(torch::equal(scaled_plus_product(c, product, left, weight),
                             scaled_plus_product(c, product, left, rounded)));
    Tensor stored = torch::empty_like(product), sum = product.clone(), expected = product.clone();
    store_product(stored, left, weight);
    EXPECT_TRUE(torch::equal(stored, product));
    add_product(sum, left, weight);
    add_product(expected, left, rounded);
    EXPECT_TRUE(torch::equal(sum, expected));
  }
}

TEST(Product, AddsAMultipleOfAnother) {
  for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
    for (const auto& [left, right] : few_and_many_rows(dtype)) {
      const Tensor base = torch::randn({left.size(0), 17}).to(dtype), c = torch::full({}, -0.7);
      const Tensor expected = base.to(torch::kFloat64) * -0.7 +
                              at::mm(left.to(torch::kFloat64), right.to(torch::kFloat64));
      EXPECT_LT(relative_error(scaled_plus_product(c, base, left, right), expected),
                tolerance_of(dtype));
    }
  }
}

TEST(Product, RefusesWhatDoesNotFit) {
  Tensor out = torch::empty({3, 2}, torch::kBFloat16);
  const Tensor left = torch::empty({3, 4}, torch::kBFloat16);
  EXPECT_ANY_THROW(store_product(out, left, torch::empty({5, 2}, torch::kBFloat16)));
  EXPECT_ANY_THROW(store_product(out, left, torch::empty({4, 3}, torch::kBFloat16)));
  EXPECT_ANY_THROW(store_product(out, left, torch::empty({4, 2}, torch::kFloat64)));
  EXPECT_ANY_THROW(add_product(out, left, torch::empty({5, 2}, torch::kBFloat16)));
  Tensor wide = torch::empty({3, 2});
  // An fp32 addend goes with an fp32 result alone, and once.
  const Tensor right = torch::empty({4, 2}, torch::kBFloat16);
  EXPECT_ANY_THROW(cpu::multiply(wide, left, right, wide, 2));
  EXPECT_ANY_THROW(cpu::multiply(out, left, right, wide, 1));
}

// crnet's own kernels, as each variant has them.
class ProductVariant : public ::testing::TestWithParam<cpu::Variant> {
 protected:
  void SetUp() override {
    if (!cpu::supports(GetParam())) GTEST_SKIP() << "this processor does not have it";
  }
};

// Where fp32 sums of K products are rounded once to the dtype.
bool is_rounded_once(const Tensor& got, const Tensor& expected, int64_t K) {
  const double last_place = got.scalar_type() == torch::kBFloat16 ? 0x1p-8 : 0x1p-23;
  // Sums of K products of normal numbers: √K in size, and as many roundings at random.
  const double sums = 8 * 0x1p-24 * static_cast<double>(K);
  const Tensor bound = expected.abs() * last_place + sums;
  return (got.to(torch::kFloat64) - expected).abs().le(bound).all().item<bool>();
}

using Sizes = std::array<int64_t, 3>;

// Sizes on both sides of a tile, a panel, a piece of rows and a block of the depth; with several
// rounds of panels; and with panels that each thread packs for itself.
TEST_P(ProductVariant, IsThatOfFp64) {
  for (const auto& [M, K, N] :
       {Sizes{1, 1, 1}, Sizes{5, 1, 1}, Sizes{70, 65, 1}, Sizes{5, 1100, 7}, Sizes{13, 9, 577},
        Sizes{150, 513, 25}, Sizes{24, 512, 48}, Sizes{3, 520, 1160}, Sizes{301, 2, 100},
        Sizes{2, 0, 3}, Sizes{150, 4200, 600}, Sizes{3, 600, 2400}, Sizes{300, 1100, 2400},
        Sizes{60, 2301, 130}}) {
    for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
      for (const auto& [left, right] : factors(M, K, N, dtype)) {
        const Tensor exact = at::mm(left.to(torch::kFloat64), right.to(torch::kFloat64));
        Tensor product = torch::full({M, N}, NAN, dtype);
        cpu::multiply(GetParam(), product, left, right, {}, 0);
        EXPECT_TRUE(is_rounded_once(product, exact, K)) << M << " x " << K << " x " << N;
        Tensor sum = torch::full({M, N}, 0.5, dtype);
        cpu::multiply(GetParam(), sum, left, right, sum, 2);
        EXPECT_TRUE(is_rounded_once(sum, exact + 1, K)) << M << " x " << K << " x " << N;
        if (dtype == torch::kFloat32) continue;
        Tensor wide = torch::full({M, N}, NAN);
        cpu::multiply(GetParam(), wide, left, right, {}, 0);
        EXPECT_TRUE(is_rounded_once(wide, exact, K)) << M << " x " << K << " x " << N;
        cpu::multiply(GetParam(), wide, left, right, wide, 1);
        EXPECT_TRUE(is_rounded_once(wide, 2 * exact, K)) << M << " x " << K << " x " << N;
        Tensor across = torch::full({N, M}, NAN).t();
        cpu::multiply(GetParam(), across, left, right, product, -1);
        EXPECT_TRUE(is_rounded_once(across, exact - product.to(torch::kFloat64), K));
      }
    }
  }
}

TEST_P(ProductVariant, RoundsAnFp32RightFactor) {
  for (const auto& [M, K, N] : {Sizes{5, 1, 1}, Sizes{5, 1100, 7}, Sizes{13, 9, 577},
                                Sizes{150, 513, 25}, Sizes{150, 4200, 600}, Sizes{60, 2301, 130}}) {
    for (const auto& [wide_left, right] : factors(M, K, N, torch::kFloat32)) {
      const Tensor left = wide_left.to(torch::kBFloat16);
      const Tensor rounded = right.to(torch::kBFloat16);
      Tensor out = torch::empty({M, N}, torch::kBFloat16), expected = torch::empty_like(out);
      cpu::multiply(GetParam(), out, left, right, {}, 0);
      cpu::multiply(GetParam(), expected, left, rounded, {}, 0);
      EXPECT_TRUE(torch::equal(out, expected)) << M << " x " << K << " x " << N;
      const Tensor base = expected.clone();
      cpu::multiply(GetParam(), out, left, right, base, 0.3);
      cpu::multiply(GetParam(), expected, left, rounded, base, 0.3);
      EXPECT_TRUE(torch::equal(out, expected)) << M << " x " << K << " x " << N;
      Tensor wide = torch::empty({M, N}), expected_wide = torch::empty({M, N});
      cpu::multiply(GetParam(), wide, left, right, {}, 0);
      cpu::multiply(GetParam(), expected_wide, left, rounded, {}, 0);
      EXPECT_TRUE(torch::equal(wide, expected_wide)) << M << " x " << K << " x " << N;
    }
  }
}

// One number of the right factor at a time: ties, what becomes infinite, and what is no number.
TEST_P(ProductVariant, RoundsAsLibTorchDoes) {
  const Tensor numbers = torch::tensor({1.00390625F, 1.01171875F, -1.00390625F, 1.0039063F,
                                        3.3895314e38F, 3.4e38F, INFINITY, -INFINITY, NAN, 0.0F});
  for (const bool lies_across : {false, true}) {
    Tensor right = torch::zeros({numbers.size(0), 40});
    right.diagonal().copy_(numbers);
    if (lies_across) right = right.t().contiguous().t();
    const Tensor left = torch::eye(numbers.size(0)).to(torch::kBFloat16);
    for (int64_t i = 0; i < numbers.size(0); ++i) {
      Tensor out = torch::empty({1, 1});
      cpu::multiply(GetParam(), out, left.narrow(0, i, 1).narrow(1, i, 1),
                    right.narrow(0, i, 1).narrow(1, i, 1), {}, 0);
      EXPECT_TRUE(torch::allclose(out.flatten()[0], numbers[i].to(torch::kBFloat16).to(out.dtype()),
                                  0, 0, /*equal_nan=*/true))
          << numbers[i].item<float>();
    }
    Tensor all = torch::empty({numbers.size(0), 40}, torch::kBFloat16);
    const Tensor finite = right.nan_to_num(0, 0, 0).clamp(-1e38, 1e38);
    cpu::multiply(GetParam(), all, left, finite, {}, 0);
    EXPECT_TRUE(torch::equal(all, finite.to(torch::kBFloat16)));
  }
}

TEST_P(ProductVariant, TakesAnyStrides) {
  const Tensor left = torch::randn({40, 12}).t(), right = torch::randn({40, 2050}).slice(1, 2);
  const Tensor base = torch::randn({2048, 12}).t();
  const Tensor exact =
      3 * base.to(torch::kFloat64) + at::mm(left.to(torch::kFloat64), right.to(torch::kFloat64));
  Tensor across = torch::empty({2048, 12}).t(), beside = torch::zeros({14, 2050});
  cpu::multiply(GetParam(), across, left, right, base, 3);
  Tensor part = beside.slice(0, 1, 13).slice(1, 1, 2049);
  cpu::multiply(GetParam(), part, left, right, base, 3);
  EXPECT_LT(relative_error(across, exact), 1e-6);
  EXPECT_TRUE(torch::equal(across, part));
  part.zero_();
  EXPECT_EQ(beside.abs().sum().item<float>(), 0);  // nothing was written beside it
}

// A row that whole pages part from the next is copied first.
TEST_P(ProductVariant, TakesRowsThatLieAPageApart) {
  const Tensor left = torch::randn({30, 1024}).slice(1, 0, 700), right = torch::randn({700, 30});
  Tensor out = torch::empty({30, 30});
  cpu::multiply(GetParam(), out, left, right, {}, 0);
  EXPECT_LT(relative_error(out, at::mm(left.to(torch::kFloat64), right.to(torch::kFloat64))), 1e-6);
}

TEST_P(ProductVariant, HasTheSameBitsForAnyNumberOfThreads) {
  const int threads = at::get_num_threads();
  for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
    // Pieces of rows alone, several rounds, slabs of columns, and slabs where there is one thread.
    for (const auto& [M, K, N] : {Sizes{500, 1300, 100}, Sizes{150, 4200, 600},
                                  Sizes{100, 1300, 500}, Sizes{300, 1100, 1210}}) {
      for (const auto& [left, right] : factors(M, K, N, dtype)) {
        at::set_num_threads(1);
        Tensor one = torch::empty({M, N}, dtype);
        cpu::multiply(GetParam(), one, left, right, {}, 0);
        Tensor sum = torch::empty({M, N}, dtype);
        cpu::multiply(GetParam(), sum, left, right, one, 0.3);
        for (const int n : {2, 3, 16}) {
          at::set_num_threads(n);
          Tensor several = torch::empty({M, N}, dtype), wide = torch::empty({M, N});
          cpu::multiply(GetParam(), several, left, right, {}, 0);
          EXPECT_TRUE(torch::equal(several, one)) << n << " threads, " << M << " rows";
          cpu::multiply(GetParam(), several, left, right, one, 0.3);
          EXPECT_TRUE(torch::equal(several, sum)) << n << " threads, " << M << " rows";
          cpu::multiply(GetParam(), wide, left, right, {}, 0);
          EXPECT_TRUE(torch::equal(wide.to(dtype), one)) << n << " threads, " << M << " rows";
        }
      }
    }
  }
  at::set_num_threads(threads);
}

TEST_P(ProductVariant, KeepsNaNAndInfinity) {
  for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
    Tensor left = torch::ones({7, 30}, dtype);
    left[2][5] = NAN;
    left[4][9] = INFINITY;
    Tensor out = torch::zeros({7, 50}, dtype);
    cpu::multiply(GetParam(), out, left, torch::ones({30, 50}, dtype), out, 1);
    EXPECT_TRUE(out[2].isnan().all().item<bool>());
    EXPECT_TRUE(out[4].isinf().all().item<bool>());
    EXPECT_TRUE(out[3].eq(30).all().item<bool>());
  }
}

INSTANTIATE_TEST_SUITE_P(Cpu, ProductVariant,
                         ::testing::Values(cpu::Variant::kBaseline, cpu::Variant::kAvx2,
                                           cpu::Variant::kAvx512, cpu::Variant::kAvx512Bf16));

}  // namespace
}  // namespace crnet
