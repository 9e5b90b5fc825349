// Every operator: gradients against finite differences in fp64, and the fused version against its
// plain twin over dtypes, odd sizes and strides.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cfloat>

#include "counting_allocator.h"
#include "crnet/core/error.h"
#include "crnet/ops/linear_cross_entropy.h"
#include "crnet/ops/low_rank_residual.h"
#include "crnet/ops/rms_norm.h"
#include "crnet/ops/rope.h"
#include "crnet/ops/swiglu.h"
#include "gradcheck.h"

namespace crnet {
namespace {

using testing::expect_fused_matches_plain;
using testing::expect_gradients_match;
using testing::leaf;
using testing::relative_error;
using testing::tolerance_of;
using torch::Tensor;
using Tensors = std::vector<Tensor>;

torch::TensorOptions fp64_on(torch::Device device) {
  return torch::TensorOptions().dtype(torch::kFloat64).device(device);
}
const std::vector<torch::ScalarType> kFastDtypes = {torch::kFloat32, torch::kBFloat16};

class Seeded : public ::testing::Test {
 protected:
  void SetUp() override { torch::manual_seed(7); }
};
class LowRankResidualTest : public Seeded {};
class RmsNormTest : public Seeded {};
class RopeTest : public Seeded {};
class SwigluTest : public Seeded {};
class LinearCrossEntropyTest : public Seeded {};

// ---- low-rank residual

TEST_F(LowRankResidualTest, GradientsMatchFiniteDifferences) {
  for (const auto& device : testing::devices()) {
    const auto exact = fp64_on(device);
    for (const double beta_value : {0.7, -0.4}) {
      const auto x = leaf(torch::randn({2, 3, 5}, exact)), A = leaf(torch::randn({5, 2}, exact));
      const auto B = leaf(torch::randn({2, 7}, exact)), y = leaf(torch::randn({2, 3, 7}, exact));
      const auto beta = leaf(torch::full({}, beta_value, exact));
      expect_gradients_match([&] { return low_rank_residual(x, A, B, y, beta, 1e-6); },
                             {x, A, B, y, beta});
    }
  }
}

TEST_F(LowRankResidualTest, MatchesPlainOverDtypesAndOddSizes) {
  for (const auto dtype : kFastDtypes) {
    // Few rows, and so many that own products begin.
    for (const auto& [rows, in, r, out] : {std::array<int64_t, 4>{11, 33, 7, 65},
                                           {11, 64, 16, 48},
                                           {11, 5, 1, 3},
                                           {30, 33, 7, 65},
                                           {30, 64, 1, 5}}) {
      const Tensors inputs = {torch::randn({3, rows, in}).to(dtype), torch::randn({in, r}),
                              torch::randn({r, out}), torch::randn({3, rows, out}).to(dtype),
                              torch::full({}, -0.8)};
      // The products round the fp32 factors to bf16 first; so does the reference.
      const auto reference = [&](const Tensors& t) {
        return plain::low_rank_residual(t[0], t[1].to(dtype).to(torch::kFloat64),
                                        t[2].to(dtype).to(torch::kFloat64), t[3], t[4], 1e-6);
      };
      const auto fused = [](const Tensors& t) {
        return low_rank_residual(t[0], t[1], t[2], t[3], t[4], 1e-6);
      };
      expect_fused_matches_plain(fused, reference, inputs, tolerance_of(dtype));
    }
  }
}

TEST_F(LowRankResidualTest, TakesNonContiguousInputs) {
  for (const auto& on : testing::devices()) {
    const auto x = torch::randn({11, 3, 8}, on).transpose(0, 1);
    const auto y = torch::randn({3, 9, 11}, on).mT();
    const auto A = torch::randn({4, 8}, on).t(), B = torch::randn({9, 4}, on).t();
    const auto beta = torch::full({}, 0.9, on);
    EXPECT_LT(relative_error(low_rank_residual(x, A, B, y, beta, 1e-6),
                             plain::low_rank_residual(x, A, B, y, beta, 1e-6)),
              1e-6);
  }
}

TEST_F(LowRankResidualTest, SignedScaleIsNeverZero) {
  const auto beta = torch::tensor({0.0, -0.0, 0.5, -0.5, -1e-9});
  const auto c = signed_scale(beta, 1e-6);
  EXPECT_GT(c[0].item<float>(), 0);
  EXPECT_GT(c[1].item<float>(), 0);  // sign(0) = +1
  EXPECT_FLOAT_EQ(c[2].item<float>(), 0.500001f);
  EXPECT_FLOAT_EQ(c[3].item<float>(), -0.500001f);
  EXPECT_LT(c[4].item<float>(), 0);
}

TEST_F(LowRankResidualTest, KeepsNothingButTheLowRankProduct) {
  const auto x = leaf(torch::randn({64, 32})), y_prev = leaf(torch::randn({64, 48}));
  const auto A = leaf(torch::randn({32, 4})), B = leaf(torch::randn({4, 48}));
  const auto beta = leaf(torch::ones({}));
  const testing::CountingAllocator allocator;
  const auto y = low_rank_residual(x, A, B, y_prev, beta, 1e-6);
  const int64_t output = 64 * 48 * 4, low = 64 * 4 * 4;
  EXPECT_GE(allocator.live_bytes(), output + low);
  EXPECT_LE(allocator.live_bytes(), output + low + 16);  // and c
}

TEST_F(LinearCrossEntropyTest, NeverHoldsAllLogits) {
  const int64_t rows = 4096, vocab = 16000, width = 8;
  const auto hidden = leaf(torch::randn({rows, width}).to(torch::kBFloat16));
  const auto w = leaf(torch::randn({vocab, width}));
  const auto targets = torch::randint(vocab, {rows});
  const testing::CountingAllocator allocator;
  linear_cross_entropy(hidden, w, targets).backward();
  EXPECT_LT(allocator.peak_bytes(), rows * vocab * 2);  // not even in bf16
}

TEST_F(LowRankResidualTest, WrongShapesAreNamed) {
  try {
    low_rank_residual(torch::randn({4, 8}), torch::randn({7, 2}), torch::randn({2, 8}),
                      torch::randn({4, 8}), torch::ones({}), 1e-6);
    FAIL() << "expected an error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("A [7, 2]"), std::string::npos) << error.what();
  }
  EXPECT_THROW(low_rank_residual(torch::randn({4, 8}), torch::randn({8, 2}), torch::randn({2, 8}),
                                 {}, torch::ones({}), 1e-6),
               Error);
}

// ---- RMSNorm

TEST_F(RmsNormTest, GradientsMatchFiniteDifferences) {
  for (const auto& device : testing::devices()) {
    const auto exact = fp64_on(device);
    const auto x = leaf(torch::randn({2, 3, 6}, exact)), w = leaf(torch::randn({6}, exact));
    expect_gradients_match([&] { return rms_norm(x, w, 1e-5); }, {x, w});
  }
}

TEST_F(RmsNormTest, MatchesPlainOverDtypesAndOddSizes) {
  for (const auto dtype : kFastDtypes) {
    for (const int64_t width : {1, 7, 64, 515}) {
      const Tensors inputs = {torch::randn({3, 37, width}).to(dtype), torch::randn({width})};
      expect_fused_matches_plain([](const Tensors& t) { return rms_norm(t[0], t[1], 1e-5); },
                                 [](const Tensors& t) { return plain::rms_norm(t[0], t[1], 1e-5); },
                                 inputs, tolerance_of(dtype));
    }
  }
}

TEST_F(RmsNormTest, TakesNonContiguousInputs) {
  for (const auto& on : testing::devices()) {
    const auto x = torch::randn({5, 16, 3}, on).mT(), w = torch::randn({16}, on);
    EXPECT_LT(relative_error(rms_norm(x, w, 1e-5), plain::rms_norm(x.contiguous(), w, 1e-5)), 1e-6);
  }
}

// ---- RoPE

TEST_F(RopeTest, GradientsMatchFiniteDifferences) {
  const auto table = rope_table(9, 6, 100.0);
  for (const auto& device : testing::devices()) {
    const auto cosine = table.cosine.to(device), sine = table.sine.to(device);
    const auto x = leaf(torch::randn({2, 4, 3, 6}, fp64_on(device)));
    expect_gradients_match([&] { return rope(x, cosine, sine, 2); }, {x});
  }
}

TEST_F(RopeTest, MatchesPlainOverDtypesAndOddSizes) {
  for (const auto dtype : kFastDtypes) {
    for (const int64_t size : {2, 6, 64}) {
      const auto table = rope_table(40, size, 10000.0);
      const Tensors inputs = {torch::randn({2, 33, 3, size}).to(dtype)};
      expect_fused_matches_plain(
          [&](const Tensors& t) {
            return rope(t[0], table.cosine.to(t[0].device()), table.sine.to(t[0].device()), 5);
          },
          [&](const Tensors& t) { return plain::rope(t[0], table.cosine, table.sine, 5); }, inputs,
          tolerance_of(dtype));
    }
  }
}

TEST_F(RopeTest, ScoresDependOnDistanceAlone) {
  const auto table = rope_table(32, 8, 10000.0);
  const auto q = torch::randn({1, 1, 1, 8}), k = torch::randn({1, 1, 1, 8});
  const auto score = [&](int64_t i, int64_t j) {
    return (rope(q, table.cosine, table.sine, i) * rope(k, table.cosine, table.sine, j))
        .sum()
        .item<float>();
  };
  EXPECT_NEAR(score(3, 1), score(30, 28), 1e-5);
  EXPECT_GT(std::abs(score(3, 1) - score(30, 1)), 1e-4);
}

TEST_F(RopeTest, TooManyPositionsAreRefused) {
  const auto table = rope_table(4, 8, 10000.0);
  EXPECT_THROW(rope(torch::randn({1, 5, 1, 8}), table.cosine, table.sine), Error);
}

// ---- SwiGLU

TEST_F(SwigluTest, GradientsMatchFiniteDifferences) {
  for (const auto& device : testing::devices()) {
    const auto exact = fp64_on(device);
    const auto gate = leaf(torch::randn({3, 5}, exact)), up = leaf(torch::randn({3, 5}, exact));
    expect_gradients_match([&] { return swiglu(gate, up); }, {gate, up});
  }
}

TEST_F(SwigluTest, MatchesPlainOverDtypesAndOddSizes) {
  for (const auto dtype : kFastDtypes) {
    for (const int64_t width : {1, 17, 1376}) {
      const Tensors inputs = {3 * torch::randn({31, width}).to(dtype),
                              torch::randn({31, width}).to(dtype)};
      expect_fused_matches_plain([](const Tensors& t) { return swiglu(t[0], t[1]); },
                                 [](const Tensors& t) { return plain::swiglu(t[0], t[1]); }, inputs,
                                 tolerance_of(dtype));
    }
  }
}

TEST_F(SwigluTest, HoldsAtTheEndsOfTheRangeAndPassesNaN) {
  const auto gate = torch::tensor({-1e4f, -100.0f, -30.0f, 30.0f, 1e4f, NAN});
  const auto expected = plain::swiglu(gate, torch::ones(6));
  for (const auto& on : testing::devices()) {
    const auto y = swiglu(gate.to(on), torch::ones(6, on));
    EXPECT_LT(relative_error(y.narrow(0, 0, 5), expected.narrow(0, 0, 5)), 1e-6);
    EXPECT_TRUE(std::isnan(y[5].item<float>()));
  }
}

// ---- SwiGLU and the product that reads it

TEST(SwigluProductTest, MatchesPlainOverDtypesLayoutsAndOddSizes) {
  torch::manual_seed(9);
  for (const auto layout : {WeightLayout::kInOut, WeightLayout::kOutIn}) {
    for (const auto dtype : kFastDtypes) {
      for (const int64_t rows : {1, 35}) {
        const Tensor weight = torch::randn({33, 7});
        const Tensors inputs = {torch::randn({2, rows, 33}).to(dtype),
                                torch::randn({2, rows, 33}).to(dtype),
                                layout == WeightLayout::kInOut ? weight : weight.t().contiguous()};
        expect_fused_matches_plain(
            [&](const Tensors& t) { return swiglu_product(t[0], t[1], t[2], layout); },
            [&](const Tensors& t) {
              return torch::matmul(plain::swiglu(t[0], t[1]),
                                   layout == WeightLayout::kInOut ? t[2] : t[2].t());
            },
            inputs, tolerance_of(dtype));
      }
    }
  }
}

TEST(SwigluProductTest, GradientsMatchFiniteDifferences) {
  for (const auto& device : testing::devices()) {
    const auto exact = fp64_on(device);
    const auto gate = leaf(torch::randn({3, 5}, exact)), up = leaf(torch::randn({3, 5}, exact));
    const auto w = leaf(torch::randn({5, 4}, exact));
    expect_gradients_match([&] { return swiglu_product(gate, up, w, WeightLayout::kInOut); },
                           {gate, up, w});
  }
}

TEST(SwigluProductTest, IsThatOfBothOperators) {
  for (const auto& device : testing::devices()) {
    for (const auto dtype : kFastDtypes) {
      const auto random = [&](at::IntArrayRef sizes) { return torch::randn(sizes, device); };
      const Tensor gate = leaf(random({70, 40}).to(dtype)), up = leaf(random({70, 40}).to(dtype));
      const Tensor w = leaf(random({40, 24}));
      const auto pass = [&](const Tensor& y) {
        Tensors results = torch::autograd::grad({y.square().sum()}, {gate, up, w});
        results.push_back(y);
        return results;
      };
      const auto got = pass(swiglu_product(gate, up, w, WeightLayout::kInOut));
      const auto expected = pass(matrix_product(swiglu(gate, up), w, WeightLayout::kInOut));
      for (size_t i = 0; i < got.size(); ++i) {
        EXPECT_LT(relative_error(got[i], expected[i]), dtype == torch::kFloat32 ? 1e-6 : 4e-3)
            << i << " " << device << " " << dtype;
      }
    }
  }
}

TEST(SwigluProductTest, WhatIsHeldIsBelievedAndTheRestIsLeftThere) {
  const Tensor gate = torch::randn({3, 8}), up = torch::randn({3, 8}), w = torch::randn({8, 2});
  Tensor missing, held = torch::full({3, 2}, 7.0);
  const Tensor product = swiglu_product(gate, up, w, WeightLayout::kInOut, &missing);
  EXPECT_TRUE(torch::equal(missing, product));
  EXPECT_TRUE(torch::equal(swiglu_product(gate, up, w, WeightLayout::kInOut, &held), held));
  EXPECT_THROW(swiglu_product(gate, up, torch::randn({7, 2}), WeightLayout::kInOut), Error);
  EXPECT_THROW(swiglu_product(gate, torch::randn({3, 7}), w, WeightLayout::kInOut), Error);
}

// ---- residual sum and RMSNorm

// Both results side by side. t: x, weight and, where there is a third, delta.
Tensor sum_and_norm(const Tensors& t) {
  const auto both = residual_rms_norm(t[0], t.size() > 2 ? t[2] : Tensor(), t[1], 1e-5);
  return torch::cat({both.sum, both.normed}, -1);
}
Tensor plain_sum_and_norm(const Tensors& t) {
  const Tensor sum = t.size() > 2 ? t[0] + t[2] : t[0];
  return torch::cat({sum, plain::rms_norm(sum, t[1], 1e-5)}, -1);
}

TEST(ResidualRmsNormTest, MatchesPlainOverDtypesAndOddSizes) {
  torch::manual_seed(7);
  for (const auto dtype : kFastDtypes) {
    for (const int64_t width : {1, 5, 33, 64}) {
      Tensors inputs = {torch::randn({3, 5, width}).to(dtype), torch::randn({width})};
      expect_fused_matches_plain(sum_and_norm, plain_sum_and_norm, inputs, tolerance_of(dtype));
      inputs.push_back(torch::randn({3, 5, width}).to(dtype));
      expect_fused_matches_plain(sum_and_norm, plain_sum_and_norm, inputs, tolerance_of(dtype));
    }
  }
}

TEST(ResidualRmsNormTest, GradientsMatchFiniteDifferences) {
  for (const auto& device : testing::devices()) {
    const auto exact = fp64_on(device);
    const auto x = leaf(torch::randn({2, 3, 6}, exact)), w = leaf(torch::randn({6}, exact));
    const auto delta = leaf(torch::randn({2, 3, 6}, exact));
    expect_gradients_match([&] { return sum_and_norm({x, w, delta}); }, {x, w, delta});
    expect_gradients_match([&] { return sum_and_norm({x, w}); }, {x, w});
  }
}

TEST(ResidualRmsNormTest, EachResultMayGoUnread) {
  for (const auto& device : testing::devices()) {
    const Tensor x = leaf(torch::randn({3, 8}, device)), w = leaf(torch::randn({8}, device));
    const Tensor delta = leaf(torch::randn({3, 8}, device));
    const auto expected =
        torch::autograd::grad({plain::rms_norm(x + delta, w, 1e-5).square().sum()}, {x, delta, w});
    const auto normed = residual_rms_norm(x, delta, w, 1e-5).normed;
    const auto got = torch::autograd::grad({normed.square().sum()}, {x, delta, w});
    for (size_t i = 0; i < got.size(); ++i) EXPECT_LT(relative_error(got[i], expected[i]), 1e-5);
    const auto sum = residual_rms_norm(x, delta, w, 1e-5).sum;
    const auto of_sum = torch::autograd::grad({sum.square().sum()}, {x, delta});
    for (const Tensor& t : of_sum) EXPECT_LT(relative_error(t, 2 * (x + delta)), 1e-6);
  }
}

// ---- head and cross entropy

TEST_F(LinearCrossEntropyTest, GradientsMatchFiniteDifferences) {
  for (const auto& device : testing::devices()) {
    const auto exact = fp64_on(device);
    const auto hidden = leaf(torch::randn({7, 3}, exact)), w = leaf(torch::randn({5, 3}, exact));
    const auto targets =
        torch::tensor(std::vector<int64_t>{0, 4, 2, kIgnoredTarget, 1, 1, 3}).to(device);
    expect_gradients_match([&] { return linear_cross_entropy(hidden, w, targets, 2); },
                           {hidden, w});
  }
}

TEST_F(LinearCrossEntropyTest, ChunksHaveABound) {
  constexpr int64_t kMany = 1 << 20, kVocab = 32000;
  constexpr auto& chunk = default_chunk_rows;
  EXPECT_EQ(chunk(kMany, kVocab, /*on_cpu=*/true, torch::kFloat32), (16 << 20) / kVocab / 64 * 64);
  EXPECT_EQ(chunk(kMany, kVocab, true, torch::kBFloat16), (32 << 20) / kVocab / 64 * 64);
  EXPECT_EQ(chunk(kMany, kVocab, false, torch::kBFloat16), (128 << 20) / kVocab / 64 * 64);
  EXPECT_EQ(chunk(1001, kVocab, false, torch::kBFloat16), 501);  // never all of them
  EXPECT_EQ(chunk(50, kVocab, true, torch::kFloat32), 50);       // but of a few
  EXPECT_EQ(chunk(kMany, 1 << 30, true, torch::kFloat32), 64);
}

TEST_F(LinearCrossEntropyTest, MatchesPlainOverDtypesChunksAndOddSizes) {
  for (const auto dtype : kFastDtypes) {
    for (const int64_t chunk : {0, 1, 16, 64, 1000}) {
      for (const auto& [rows, vocab] : {std::array<int64_t, 2>{37, 3}, {37, 31}, {70, 517}}) {
        auto targets = torch::randint(vocab, {rows});
        targets[5] = kIgnoredTarget;
        const Tensors inputs = {torch::randn({rows, 12}).to(dtype), torch::randn({vocab, 12})};
        const auto reference = [&](const Tensors& t) {
          return plain::linear_cross_entropy(t[0], t[1].to(dtype).to(torch::kFloat64), targets);
        };
        expect_fused_matches_plain(
            [&](const Tensors& t) {
              return linear_cross_entropy(t[0], t[1], targets.to(t[0].device()), chunk);
            },
            reference, inputs, tolerance_of(dtype));
      }
    }
  }
}

TEST_F(LinearCrossEntropyTest, WithoutGradientsGivesTheSameLoss) {
  for (const auto& on : testing::devices()) {
    const auto hidden = leaf(torch::randn({37, 12}, on)), w = leaf(torch::randn({31, 12}, on));
    const auto targets = torch::randint(31, {37}).to(on);
    const double with = linear_cross_entropy(hidden, w, targets).item<double>();
    const torch::NoGradGuard no_grad;
    EXPECT_NEAR(linear_cross_entropy(hidden, w, targets).item<double>(), with, 1e-6 * with);
  }
}

TEST_F(LinearCrossEntropyTest, BackwardScalesWithTheLossItself) {
  for (const auto& on : testing::devices()) {
    const auto hidden = leaf(torch::randn({9, 4}, on)), w = leaf(torch::randn({6, 4}, on));
    const auto targets = torch::randint(6, {9}).to(on);
    const auto gradients_of = [&](double factor) {
      return torch::autograd::grad({factor * linear_cross_entropy(hidden, w, targets)},
                                   {hidden, w});
    };
    const auto once = gradients_of(1), thrice = gradients_of(3);
    EXPECT_LT(relative_error(thrice[0], 3 * once[0]), 1e-6);
    EXPECT_LT(relative_error(thrice[1], 3 * once[1]), 1e-6);
  }
}

TEST_F(LinearCrossEntropyTest, AllIgnoredIsZeroWithZeroGradients) {
  for (const auto& on : testing::devices()) {
    const auto hidden = leaf(torch::randn({3, 4}, on)), w = leaf(torch::randn({6, 4}, on));
    const auto targets = torch::full({3}, kIgnoredTarget, torch::kInt64).to(on);
    const auto loss = linear_cross_entropy(hidden, w, targets);
    EXPECT_EQ(loss.item<double>(), 0);
    EXPECT_EQ(torch::autograd::grad({loss}, {hidden})[0].abs().sum().item<double>(), 0);
  }
}

TEST_F(LinearCrossEntropyTest, ATargetOutsideTheVocabularyIsNamed) {
  try {
    linear_cross_entropy(torch::randn({2, 4}), torch::randn({6, 4}),
                         torch::tensor(std::vector<int64_t>{1, 6}));
    FAIL() << "expected an error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("got 6"), std::string::npos) << error.what();
  }
}

TEST_F(LinearCrossEntropyTest, NoGradientIsSubnormal) {
  const auto hidden = leaf(torch::full({2, 1}, 1.0f));
  const auto w = leaf(torch::linspace(-100, 0, 1001).unsqueeze(1));
  const auto loss = linear_cross_entropy(hidden, w, torch::full({2}, 1000, torch::kInt64));
  const auto gradient = torch::autograd::grad({loss}, {w})[0].abs();
  EXPECT_GT(gradient.gt(0).sum().item<int64_t>(), 800);
  EXPECT_EQ((gradient.gt(0) & gradient.lt(FLT_MIN)).sum().item<int64_t>(), 0);
}

TEST_F(LinearCrossEntropyTest, ANonFiniteLogitGivesANonFiniteLoss) {
  for (const auto& on : testing::devices()) {
    for (const auto dtype : kFastDtypes) {
      auto hidden = torch::randn({4, 8}, on).to(dtype);
      hidden[2][3] = NAN;
      const auto loss =
          linear_cross_entropy(leaf(hidden), torch::randn({33, 8}, on), torch::arange(4).to(on));
      EXPECT_FALSE(std::isfinite(loss.item<double>()));
    }
  }
}

}  // namespace
}  // namespace crnet
