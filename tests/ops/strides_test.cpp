// Operators on tensors whose elements do not follow each other, and with such gradients: what they
// give for the same numbers in a row.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "crnet/ops/attention.h"
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
using Operator = std::function<Tensor(const Tensors&)>;

// The same numbers, every second one in memory.
Tensor spread_out(const Tensor& t) {
  return t.dim() == 0 ? t : torch::stack({t, t + 1}, -1).select(-1, 0);
}

Tensors results_of(const Operator& f, const Tensors& inputs, const Tensor& gradient) {
  Tensors leaves;
  for (const Tensor& input : inputs) leaves.push_back(input.detach().requires_grad_());
  const Tensor y = f(leaves);
  Tensors results = torch::autograd::grad({y}, leaves, {gradient});
  results.push_back(y.detach());
  return results;
}

void expect_strides_do_not_matter(const std::string& name, const Operator& f,
                                  const std::vector<std::vector<int64_t>>& shapes) {
  torch::manual_seed(7);
  for (const auto& device : testing::devices()) {
    for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
      Tensors inputs, spread;
      for (const auto& shape : shapes) {
        // A vector or a scalar is a parameter, in fp32.
        inputs.push_back(torch::randn(shape).to(shape.size() < 2 ? torch::kFloat32 : dtype));
        inputs.back() = inputs.back().to(device);
        spread.push_back(spread_out(inputs.back()));
      }
      const Tensor gradient = torch::randn_like(f(inputs));
      const auto expected = results_of(f, inputs, gradient);
      const auto got = results_of(f, spread, spread_out(gradient));
      for (size_t i = 0; i < expected.size(); ++i) {
        EXPECT_EQ(got[i].sizes(), expected[i].sizes());
        EXPECT_LT(testing::relative_error(got[i], expected[i]), testing::tolerance_of(dtype))
            << name << ", result " << i << ", " << device << " " << dtype;
      }
    }
  }
}

TEST(Strides, DoNotMatterToAnyOperator) {
  expect_strides_do_not_matter(
      "RMSNorm", [](const Tensors& t) { return rms_norm(t[0], t[1], 1e-5); }, {{3, 5, 33}, {33}});
  expect_strides_do_not_matter("SwiGLU", [](const Tensors& t) { return swiglu(t[0], t[1]); },
                               {{3, 5, 33}, {3, 5, 33}});
  expect_strides_do_not_matter(
      "SwiGLU and its product",
      [](const Tensors& t) { return swiglu_product(t[0], t[1], t[2], WeightLayout::kInOut); },
      {{2, 40, 33}, {2, 40, 33}, {33, 9}});
  expect_strides_do_not_matter("residual sum and RMSNorm",
                               [](const Tensors& t) {
                                 const auto both = residual_rms_norm(t[0], t[1], t[2], 1e-5);
                                 return torch::cat({both.sum, both.normed});
                               },
                               {{3, 5, 33}, {3, 5, 33}, {33}});
  expect_strides_do_not_matter("RoPE",
                               [](const Tensors& t) {
                                 const RopeTable table = rope_table(7, 6, 100.0);
                                 return rope(t[0], table.cosine.to(t[0].device()),
                                             table.sine.to(t[0].device()));
                               },
                               {{2, 7, 3, 6}});
  expect_strides_do_not_matter("attention",
                               [](const Tensors& t) { return causal_attention(t[0], t[1], t[2]); },
                               {{2, 7, 4, 6}, {2, 7, 2, 6}, {2, 7, 2, 6}});
  expect_strides_do_not_matter(
      "cross entropy",
      [](const Tensors& t) {
        const Tensor targets = torch::arange(0, 26, 2, torch::kInt64).to(t[0].device());
        return linear_cross_entropy(t[0], t[1], spread_out(targets), /*chunk_rows=*/5);
      },
      {{13, 9}, {31, 9}});
  for (const auto layout : {WeightLayout::kInOut, WeightLayout::kOutIn}) {
    const bool in_out = layout == WeightLayout::kInOut;
    expect_strides_do_not_matter(
        "matrix products",
        [&](const Tensors& t) {
          const auto products = matrix_products(t[0], {t[1], t[2]}, layout);
          return products[0] - products[1];
        },
        in_out ? std::vector<std::vector<int64_t>>{{2, 40, 9}, {9, 5}, {9, 5}}
               : std::vector<std::vector<int64_t>>{{2, 40, 9}, {5, 9}, {5, 9}});
  }
  expect_strides_do_not_matter(
      "low-rank residual",
      [](const Tensors& t) { return low_rank_residual(t[0], t[1], t[2], t[3], t[4], 1e-6); },
      {{2, 40, 9}, {9, 3}, {3, 7}, {2, 40, 7}, {}});
}

}  // namespace
}  // namespace crnet
