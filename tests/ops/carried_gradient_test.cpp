// Gradients that go from block to block beside the graph: what a reader of the graph may expect
// holds, whether they do or not.
#include "ops/carried_gradient.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <array>
#include <stdexcept>
#include <thread>
#include <vector>

#include "crnet/ops/low_rank_residual.h"
#include "crnet/ops/matrix_product.h"
#include "gradcheck.h"

namespace crnet {
namespace {

using testing::leaf;
using testing::relative_error;
using torch::Tensor;

constexpr int64_t kRows = 70, kWidth = 24, kRank = 3;
constexpr double kEpsilon = 1e-6;

/// Y_1 = X · 1, and two residuals above it; each Y is read by the loss as well.
struct Stack {
  explicit Stack(torch::ScalarType dtype) : dtype(dtype) {
    torch::manual_seed(5);
    x = leaf(torch::randn({kRows, kWidth}).to(dtype));
    identity = leaf(torch::eye(kWidth));
    for (size_t i = 0; i < 2; ++i) {
      A[i] = leaf(torch::randn({kWidth, kRank}));
      B[i] = leaf(torch::randn({kRank, kWidth}));
      beta[i] = leaf(torch::full({}, i == 0 ? 0.7 : -1.3));
    }
    for (auto& weight : weights) weight = torch::randn({kRows, kWidth}).to(dtype);
  }

  void forward() {
    const Tensor input = torch::ones({kRows, kWidth}, dtype);
    y[0] = matrix_product(x, identity, WeightLayout::kInOut);
    for (size_t i = 0; i < 2; ++i) {
      y[i + 1] = low_rank_residual(input, A[i], B[i], y[i], beta[i], kEpsilon);
    }
    loss = torch::zeros({});
    for (size_t i = 0; i < 3; ++i) loss = loss + (y[i] * weights[i]).sum();
  }

  /// dY of each, in fp32 and rounded once, as where they are carried.
  [[nodiscard]] std::array<Tensor, 3> expected() const {
    std::array<Tensor, 3> dy;
    dy[2] = weights[2];
    for (size_t i = 2; i-- > 0;) {
      const Tensor c = signed_scale(beta[i].detach(), kEpsilon);
      dy[i] = (weights[i].to(torch::kFloat32) + c * dy[i + 1].to(torch::kFloat32)).to(dtype);
    }
    return dy;
  }

  [[nodiscard]] std::vector<Tensor> inputs() const {
    return {x, identity, A[0], B[0], beta[0], A[1], B[1], beta[1]};
  }

  torch::ScalarType dtype;
  Tensor x, identity, loss;
  std::array<Tensor, 2> A, B, beta;
  std::array<Tensor, 3> weights, y;
};

double tolerance_of(torch::ScalarType dtype) {
  return dtype == torch::kBFloat16 ? 4e-3 : 2e-7;  // a rounding
}

// In bf16 the second rounding of a gradient that was not carried would show.
TEST(CarriedGradient, ArrivesAtTheOperatorThatMadeY) {
  Stack stack(torch::kBFloat16);
  stack.forward();
  stack.loss.backward();
  EXPECT_LT(relative_error(stack.x.grad(), stack.expected()[0]), 1e-5);
  for (size_t i = 0; i < 2; ++i) {
    const Tensor dbeta = (stack.expected()[i + 1].to(torch::kFloat64) * stack.y[i]).sum();
    EXPECT_LT(relative_error(stack.beta[i].grad(), dbeta), 4e-3) << i;
  }
}

TEST(CarriedGradient, WhoLooksAtAnOutputsGradientSeesAllOfIt) {
  for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
    Stack stack(dtype);
    stack.forward();
    const auto expected = stack.expected();
    std::array<Tensor, 3> seen;
    for (size_t i = 0; i < 3; ++i) {
      stack.y[i].register_hook([&seen, i](const Tensor& gradient) { seen[i] = gradient.clone(); });
    }
    const auto asked = torch::autograd::grad({stack.loss}, {stack.y[0], stack.y[1]}, {},
                                             /*retain_graph=*/true);
    for (size_t i = 0; i < 2; ++i) {
      EXPECT_LT(relative_error(asked[i], expected[i]), tolerance_of(dtype)) << i;
    }
    stack.y[1].retain_grad();
    stack.loss.backward();
    EXPECT_LT(relative_error(stack.y[1].grad(), expected[1]), tolerance_of(dtype));
    for (size_t i = 0; i < 3; ++i) {
      EXPECT_LT(relative_error(seen[i], expected[i]), tolerance_of(dtype)) << i;
    }
  }
}

TEST(CarriedGradient, AGradientThatIsAskedForAloneIsWhole) {
  Stack stack(torch::kFloat32);
  stack.forward();
  const auto expected = stack.expected();
  const auto of_middle = torch::autograd::grad({stack.loss}, {stack.y[1]}, {}, true);
  EXPECT_LT(relative_error(of_middle[0], expected[1]), 2e-7);
  const auto of_input = torch::autograd::grad({stack.loss}, {stack.x}, {}, true);
  EXPECT_LT(relative_error(of_input[0], expected[0]), 2e-7);
}

TEST(CarriedGradient, PassesThroughOneGraphGiveTheSameBits) {
  Stack stack(torch::kFloat32);
  stack.forward();
  const auto first = torch::autograd::grad({stack.loss}, stack.inputs(), {}, true);
  const auto second = torch::autograd::grad({stack.loss}, stack.inputs(), {}, true);
  for (size_t i = 0; i < first.size(); ++i) EXPECT_TRUE(torch::equal(second[i], first[i])) << i;
}

// What a pass that failed left behind is not taken by the next, which goes without carrying there.
TEST(CarriedGradient, APassThatFailsLeavesNothingForTheNext) {
  Stack stack(torch::kFloat32);
  stack.forward();
  bool fails = true;
  const Tensor loss = stack.loss + stack.y[0].sum();
  stack.y[0].register_hook([&fails](const Tensor& gradient) {
    if (fails) throw std::runtime_error("in the middle");
    return gradient;
  });
  EXPECT_THROW(static_cast<void>(torch::autograd::grad({loss}, stack.inputs(), {}, true)),
               std::runtime_error);
  const auto left = carried_to(stack.y[1].grad_fn().get());
  EXPECT_FALSE(left->take(0)) << "y[1] took it before y[0] failed";
  ASSERT_TRUE(left->put(0, {torch::ones({kRows, kWidth}), torch::ones({})}, /*pass=*/-2));
  fails = false;
  const auto got = torch::autograd::grad({loss}, stack.inputs(), {}, true);
  auto expected = stack.expected()[0] + 1;
  EXPECT_LT(relative_error(got[0], expected), 2e-7);
}

TEST(CarriedGradient, AnOutputBelowMayWantNoGradient) {
  const Tensor y = torch::randn({kRows, kWidth}), x = leaf(torch::randn({kRows, kWidth}));
  const Tensor A = leaf(torch::randn({kWidth, kRank})), B = leaf(torch::randn({kRank, kWidth}));
  const Tensor beta = leaf(torch::ones({}));
  low_rank_residual(x, A, B, y, beta, 0).sum().backward();
  EXPECT_LT(relative_error(beta.grad(), y.sum()), 1e-5);
}

TEST(CarriedGradient, AFixedBetaChangesNoOtherGradient) {
  Stack stack(torch::kFloat32);
  stack.forward();
  const auto all = torch::autograd::grad({stack.loss}, stack.inputs());
  for (Tensor& beta : stack.beta) beta.set_requires_grad(false);
  stack.forward();
  const auto got = torch::autograd::grad({stack.loss}, {stack.x, stack.A[0], stack.B[1]});
  EXPECT_TRUE(torch::equal(got[0], all[0]));
  EXPECT_TRUE(torch::equal(got[1], all[2]));
  EXPECT_TRUE(torch::equal(got[2], all[6]));
}

TEST(CarriedGradient, PassesInSeveralThreadsDoNotMix) {
  Stack stack(torch::kFloat32);
  stack.forward();
  const auto alone = torch::autograd::grad({stack.loss}, stack.inputs(), {}, true);
  std::vector<std::thread> threads;
  std::array<double, 4> errors{};
  for (double& error : errors) {
    threads.emplace_back([&] {
      for (int round = 0; round < 20; ++round) {
        const auto got = torch::autograd::grad({stack.loss}, stack.inputs(), {}, true);
        for (size_t i = 0; i < got.size(); ++i) {
          error = std::max(error, relative_error(got[i], alone[i]));
        }
      }
    });
  }
  for (auto& thread : threads) thread.join();
  for (const double error : errors) EXPECT_LT(error, 1e-5);
}

TEST(CarriedGradient, TwoResidualsMayReadOneOutput) {
  const Tensor x = leaf(torch::randn({kRows, kWidth})), identity = torch::eye(kWidth);
  const Tensor A = torch::randn({kWidth, kRank}), B = torch::randn({kRank, kWidth});
  const Tensor beta = torch::full({}, 0.5), other = torch::full({}, -2.0);
  const Tensor y = matrix_product(x, identity, WeightLayout::kInOut);
  const Tensor input = torch::randn({kRows, kWidth});
  const Tensor sum =
      low_rank_residual(input, A, B, y, beta, 0) + 3 * low_rank_residual(input, A, B, y, other, 0);
  sum.sum().backward();
  EXPECT_TRUE(torch::allclose(x.grad(), torch::full({kRows, kWidth}, 0.5 - 6.0)));
}

// The operator's node is another's then, and knows nothing of carrying.
TEST(CarriedGradient, AnOutputMayBeChangedOnTheWay) {
  const Tensor x = leaf(torch::randn({kRows, kWidth})), identity = torch::eye(kWidth);
  const Tensor A = torch::randn({kWidth, kRank}), B = torch::randn({kRank, kWidth});
  Tensor y = matrix_product(x, identity, WeightLayout::kInOut);
  const Tensor input = torch::randn({kRows, kWidth}), beta = torch::full({}, 0.5);
  const Tensor above = low_rank_residual(input, A, B, y * 2, beta, 0);
  const Tensor viewed =
      low_rank_residual(input.view({7, 10, kWidth}), A, B, y.view({7, 10, kWidth}), beta, 0);
  (above.sum() + viewed.sum()).backward();
  EXPECT_TRUE(torch::allclose(x.grad(), torch::full({kRows, kWidth}, 1.5)));
}

}  // namespace
}  // namespace crnet
