// Products of one input with several weights: as those of each alone.
#include "crnet/ops/matrix_product.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <vector>

#include "crnet/core/error.h"
#include "gradcheck.h"

namespace crnet {
namespace {

using testing::leaf;
using testing::relative_error;
using torch::Tensor;
using Tensors = std::vector<Tensor>;

constexpr int64_t kIn = 20;
const std::vector<int64_t> kWidths = {8, 3, 16};

Tensors make_weights(WeightLayout layout, torch::ScalarType dtype) {
  Tensors weights;
  for (const int64_t out : kWidths) {
    const Tensor weight = torch::randn({kIn, out}).to(dtype);
    weights.push_back(leaf(layout == WeightLayout::kInOut ? weight : weight.t().contiguous()));
  }
  return weights;
}

Tensor weighted_sum(const Tensors& products) {
  Tensor sum = torch::zeros({}, torch::kFloat64);
  for (const Tensor& product : products) {
    const Tensor wide = product.to(torch::kFloat64);
    sum = sum + (wide * torch::linspace(-1, 1, wide.numel(), wide.options()).view_as(wide)).sum();
  }
  return sum;
}

// Few rows are multiplied one weight after the other, many as one matrix.
TEST(MatrixProducts, AreThoseOfEachWeightAlone) {
  torch::manual_seed(1);
  for (const auto layout : {WeightLayout::kInOut, WeightLayout::kOutIn}) {
    for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
      for (const int64_t rows : {1, 5, 70}) {
        SCOPED_TRACE(::testing::Message()
                     << dtype << ", 2 × " << rows << " rows, layout " << static_cast<int>(layout));
        const double tolerance = dtype == torch::kBFloat16 ? 1e-2 : 1e-6;
        const Tensors weights = make_weights(layout, torch::kFloat32);
        const Tensor x = torch::randn({2, rows, kIn}).to(dtype), together = leaf(x),
                     apart = leaf(x);
        Tensors inputs = weights, products_apart;
        inputs.push_back(together);
        const Tensors products = matrix_products(together, weights, layout);
        const auto got = torch::autograd::grad({weighted_sum(products)}, inputs);
        for (const Tensor& weight : weights) {
          products_apart.push_back(matrix_product(apart, weight, layout));
        }
        inputs.back() = apart;
        const auto expected = torch::autograd::grad({weighted_sum(products_apart)}, inputs);
        for (size_t i = 0; i < weights.size(); ++i) {
          EXPECT_EQ(products[i].sizes(), products_apart[i].sizes());
          EXPECT_LT(relative_error(products[i], products_apart[i]), tolerance) << i;
          EXPECT_TRUE(got[i].is_contiguous());
        }
        for (size_t i = 0; i < got.size(); ++i) {
          EXPECT_EQ(got[i].scalar_type(), inputs[i].scalar_type());
          EXPECT_LT(relative_error(got[i], expected[i]), tolerance) << i;
        }
      }
    }
  }
}

// Few rows, and so many that own products begin and that weights are joined.
TEST(MatrixProducts, MatchPlainOverDtypesAndOddSizes) {
  torch::manual_seed(4);
  for (const auto layout : {WeightLayout::kInOut, WeightLayout::kOutIn}) {
    for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
      for (const int64_t rows : {1, 5, 67}) {
        SCOPED_TRACE(::testing::Message()
                     << dtype << ", 2 × " << rows << " rows, layout " << static_cast<int>(layout));
        Tensors inputs = make_weights(layout, torch::kFloat32);
        inputs.insert(inputs.begin(), torch::randn({2, rows, kIn}).to(dtype));
        const auto fused = [&](const Tensors& t) {
          return torch::cat(matrix_products(t[0], {t.begin() + 1, t.end()}, layout), -1);
        };
        const auto plain = [&](const Tensors& t) {
          Tensors products;
          for (size_t i = 1; i < t.size(); ++i) {
            const Tensor weight = t[i].to(dtype).to(torch::kFloat64);
            products.push_back(
                torch::matmul(t[0], layout == WeightLayout::kInOut ? weight : weight.t()));
          }
          return torch::cat(products, -1);
        };
        testing::expect_fused_matches_plain(fused, plain, inputs, testing::tolerance_of(dtype));
      }
    }
  }
}

// Rows that are wider than the weights' own, on either side: what lies behind stands beside zeros.
TEST(MatrixProducts, WiderRowsAreThoseOfWeightsWithZeros) {
  torch::manual_seed(6);
  const RowWidths wide{.in = kIn + 4, .out = 24};
  for (const auto& device : testing::devices()) {
    for (const auto layout : {WeightLayout::kInOut, WeightLayout::kOutIn}) {
      for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
        for (const int64_t rows : {3, 70}) {
          SCOPED_TRACE(::testing::Message() << device << " " << dtype << ", " << rows << " rows");
          Tensors inputs = make_weights(layout, torch::kFloat32), padded;
          for (Tensor& weight : inputs) weight = leaf(weight.detach().to(device));
          const Tensor x = leaf(torch::randn({rows, wide.in}, device).to(dtype));
          for (const Tensor& weight : inputs) {
            const bool in_out = layout == WeightLayout::kInOut;
            const int64_t down = (in_out ? wide.in : wide.out) - weight.size(0);
            const int64_t right = (in_out ? wide.out : wide.in) - weight.size(1);
            padded.push_back(torch::constant_pad_nd(weight, {0, right, 0, down}));
          }
          const Tensors got = matrix_products(x, inputs, layout, {}, wide);
          const Tensors expected = matrix_products(x, padded, layout);
          inputs.push_back(x);
          const auto got_gradients = torch::autograd::grad({weighted_sum(got)}, inputs);
          const auto gradients = torch::autograd::grad({weighted_sum(expected)}, inputs);
          for (size_t i = 0; i < got.size(); ++i) {
            EXPECT_TRUE(torch::equal(got[i], expected[i]));
            EXPECT_EQ(got[i].narrow(1, kWidths[i], wide.out - kWidths[i]).abs().sum().item<float>(),
                      0);
          }
          for (size_t i = 0; i < inputs.size(); ++i) {
            EXPECT_TRUE(got_gradients[i].is_contiguous());
            EXPECT_TRUE(torch::equal(got_gradients[i], gradients[i])) << i;
          }
        }
      }
    }
  }
  EXPECT_EQ(fast_row_width(41, /*on_gpu=*/true, torch::kBFloat16), 48);
  EXPECT_EQ(fast_row_width(5461, /*on_gpu=*/true, torch::kBFloat16), 5504);
  EXPECT_EQ(fast_row_width(5464, /*on_gpu=*/true, torch::kBFloat16), 5464);
  EXPECT_EQ(fast_row_width(5461, /*on_gpu=*/true, torch::kFloat32), 5461);
  EXPECT_EQ(fast_row_width(5461, /*on_gpu=*/false, torch::kBFloat16), 5461);
}

TEST(MatrixProducts, GradientsMatchFiniteDifferences) {
  torch::manual_seed(2);
  for (const auto layout : {WeightLayout::kInOut, WeightLayout::kOutIn}) {
    Tensors inputs = make_weights(layout, torch::kFloat64);
    const Tensors weights = inputs;
    const Tensor x = leaf(torch::randn({66, kIn}, torch::kFloat64));
    inputs.push_back(x);
    testing::expect_gradients_match(
        [&] { return weighted_sum(matrix_products(x, weights, layout)).reshape({1}); }, inputs);
  }
}

TEST(MatrixProducts, WhatIsHeldIsBelievedAndTheRestIsLeftThere) {
  const Tensors weights = make_weights(WeightLayout::kInOut, torch::kFloat32);
  const Tensor x = torch::randn({70, kIn});
  const Tensors alone = matrix_products(x, weights, WeightLayout::kInOut);
  Tensor held = torch::full({70, kWidths[1]}, 7.0), missing;
  const Tensors products =
      matrix_products(x, weights, WeightLayout::kInOut, {nullptr, &held, &missing});
  EXPECT_TRUE(torch::equal(products[0], alone[0]));
  EXPECT_TRUE(products[1].eq(7).all().item<bool>());
  EXPECT_TRUE(torch::equal(products[2], alone[2]));
  EXPECT_TRUE(torch::equal(missing, alone[2]));
  EXPECT_FALSE(missing.requires_grad());
}

TEST(MatrixProducts, AWeightThatNothingDependsOnGetsNoGradient) {
  for (const auto layout : {WeightLayout::kInOut, WeightLayout::kOutIn}) {
    const Tensors weights = make_weights(layout, torch::kFloat32);
    const Tensor x = leaf(torch::randn({70, kIn}));
    matrix_products(x, weights, layout)[1].sum().backward();
    EXPECT_FALSE(weights[0].grad().defined());
    EXPECT_TRUE(weights[1].grad().defined());
    const Tensor expected =
        torch::autograd::grad({matrix_product(x, weights[1], layout).sum()}, {x, weights[1]})[0];
    EXPECT_TRUE(torch::equal(x.grad(), expected));
  }
}

TEST(MatrixProducts, GradientsAreOfTheirWeightsDtype) {
  const Tensor x = torch::randn({70, kIn}).to(torch::kBFloat16);
  const Tensor wide = leaf(torch::randn({kIn, 4}));
  const Tensor narrow = leaf(torch::randn({kIn, 4}).to(torch::kBFloat16));
  const auto products = matrix_products(x, {narrow, wide}, WeightLayout::kInOut);
  (products[0] + products[1]).sum().backward();
  EXPECT_EQ(wide.grad().scalar_type(), torch::kFloat32);
  EXPECT_EQ(narrow.grad().scalar_type(), torch::kBFloat16);
}

TEST(MatrixProducts, WhatDoesNotFitIsNamed) {
  const Tensor x = torch::randn({4, 8}), fits = torch::randn({8, 2});
  EXPECT_THROW(matrix_products(x, {fits, torch::randn({7, 2})}, WeightLayout::kInOut), Error);
  EXPECT_THROW(matrix_products(x, {fits, fits}, WeightLayout::kInOut, {nullptr}), Error);
  EXPECT_TRUE(matrix_products(x, {}, WeightLayout::kInOut).empty());
}

}  // namespace
}  // namespace crnet
