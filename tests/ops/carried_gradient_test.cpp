// Gradients that go from block to block beside the graph: what a reader of the graph may expect
// holds, whether they do or not.
#include "ops/carried_gradient.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <array>
#include <functional>
#include <stdexcept>
#include <thread>
#include <vector>

#include "crnet/ops/low_rank_residual.h"
#include "crnet/ops/matrix_product.h"
#include "crnet/ops/rope.h"
#include "crnet/ops/swiglu.h"
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

/// Five blocks of a gated MLP and rotated queries over their outputs below: what is carried to
/// gate, up and q is added where their gradients are made.
struct GatedStack {
  GatedStack(torch::Device device, torch::ScalarType dtype) {
    torch::manual_seed(12);
    const auto on = torch::TensorOptions().device(device);
    const auto table = rope_table(kRows / 2, kWidth / 2, 100.0);
    cosine = table.cosine.to(device), sine = table.sine.to(device);
    x = leaf(torch::randn({2, kRows / 2, kWidth}, on).to(dtype));
    for (auto& first : below) first = leaf(torch::randn({2, kRows / 2, kWidth}, on).to(dtype));
    for (int i = 0; i < 15; ++i) {
      B.push_back(leaf(torch::randn({kRank, kWidth}, on)));
      beta.push_back(leaf(torch::full({}, 0.6 + 0.05 * i, on)));
    }
    A = leaf(torch::randn({kWidth, kRank}, on));
    down = leaf(torch::randn({kWidth, kWidth}, on));
  }

  /// `whole`: operators as they are; otherwise each gradient comes to a copy, where nothing is
  /// open.
  [[nodiscard]] std::vector<Tensor> gradients(bool whole) const {
    const auto reader = [whole](const Tensor& t) { return whole ? t : t.clone(); };
    std::array<Tensor, 3> y = below;
    Tensor loss = torch::zeros({}, x.options().dtype(torch::kFloat32));
    for (size_t block = 0; block < 5; ++block) {
      const Tensor low = matrix_product(x, A, WeightLayout::kInOut);
      for (size_t i = 0; i < 3; ++i) {
        LowRankProducts products;
        const size_t at = 3 * block + i;
        y[i] = cross_layer_sum(low, B[at], y[i], beta[at], kEpsilon, products);
      }
      const Tensor mlp = swiglu_product(reader(y[0]), reader(y[1]), down, WeightLayout::kInOut);
      const Tensor q = rope(reader(y[2]), cosine, sine);
      loss = loss + (mlp.to(torch::kFloat32).square().mean() + q.to(torch::kFloat32).pow(3).mean());
    }
    std::vector<Tensor> inputs = {x, A, down, below[0], below[1], below[2]};
    inputs.insert(inputs.end(), B.begin(), B.end());
    inputs.insert(inputs.end(), beta.begin(), beta.end());
    return torch::autograd::grad({loss}, inputs);
  }

  Tensor x, A, down, cosine, sine;
  std::array<Tensor, 3> below;
  std::vector<Tensor> B, beta;
};

// The two topmost blocks have nothing carried to them that is theirs to write to.
constexpr int64_t kOpened = 3;

int64_t num_opened(const std::function<void()>& f) {
  const int64_t before = num_closed_gradients();
  f();
  return num_closed_gradients() - before;
}

TEST(OpenGradient, SumsHaveTheBitsOfThoseMadeInAPassOfTheirOwn) {
  for (const auto& device : testing::devices()) {
    for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
      const GatedStack stack(device, dtype);
      std::vector<Tensor> got, expected;
      const int64_t of_a_block = device.is_cuda() ? 3 : 2;  // gate and up, and on a GPU q
      EXPECT_EQ(num_opened([&] { got = stack.gradients(/*whole=*/true); }), kOpened * of_a_block);
      EXPECT_EQ(num_opened([&] { expected = stack.gradients(/*whole=*/false); }), 0);
      for (size_t i = 0; i < got.size(); ++i) {
        if (got[i].dim() > 0) {
          EXPECT_TRUE(torch::equal(got[i], expected[i])) << i << " " << device << " " << dtype;
        } else {  // dβ, whose order of summation is another on a GPU
          EXPECT_LT(relative_error(got[i], expected[i]), 1e-4) << i << " " << device;
        }
      }
    }
  }
}

// Another reader of gate adds to what the MLP's backward has summed.
TEST(OpenGradient, AnotherReaderOfTheOutputCounts) {
  for (const auto& device : testing::devices()) {
    torch::manual_seed(13);
    const auto random = [&](at::IntArrayRef sizes) { return leaf(torch::randn(sizes, device)); };
    const Tensor low = random({kRows, kRank}), first = random({kRows, kWidth});
    const Tensor B = random({kRank, kWidth}), beta = leaf(torch::full({}, 0.7, device));
    const Tensor up = random({kRows, kWidth}), down = random({kWidth, kWidth});
    const auto loss = [&](bool fused) {
      Tensor y = first, sum = torch::zeros({}, device);
      for (int block = 0; block < 3; ++block) {
        LowRankProducts products;
        Tensor other = up;
        if (fused) {
          y = cross_layer_sum(low, B, y, beta, kEpsilon, products);
          LowRankProducts unheld;
          other = cross_layer_sum(low, B, up, beta, kEpsilon, unheld);
          sum = sum + swiglu_product(y, other, down, WeightLayout::kInOut).square().mean();
        } else {
          y = signed_scale(beta, kEpsilon) * y + torch::mm(low, B);
          other = signed_scale(beta, kEpsilon) * up + torch::mm(low, B);
          sum = sum + torch::mm(plain::swiglu(y, other), down).square().mean();
        }
        sum = sum + y.pow(3).mean();
      }
      return sum;
    };
    const std::vector<Tensor> inputs = {low, first, B, beta, up, down};
    const auto got = torch::autograd::grad({loss(true)}, inputs);
    const auto expected = torch::autograd::grad({loss(false)}, inputs);
    for (size_t i = 0; i < got.size(); ++i) {
      EXPECT_LT(relative_error(got[i], expected[i]), 2e-5) << i << " " << device;
    }
  }
}

/// Blocks of gate and up under a product each; `B` and β of all are the same.
struct GatePair {
  explicit GatePair(int num_blocks, bool learns_beta = true) {
    torch::manual_seed(14);
    low = leaf(torch::randn({kRows, kRank}));
    B = leaf(torch::randn({kRank, kWidth}));
    beta = torch::full({}, 0.7);
    if (learns_beta) beta = leaf(beta);
    for (Tensor& first : below) first = leaf(torch::randn({kRows, kWidth}));
    down = leaf(torch::randn({kWidth, kWidth}));
    std::array<Tensor, 2> y = below;
    loss = torch::zeros({});
    for (int block = 0; block < num_blocks; ++block) {
      for (Tensor& t : y) {
        LowRankProducts products;
        t = cross_layer_sum(low, B, t, beta, kEpsilon, products);
      }
      outputs.push_back(y);
      loss = loss + swiglu_product(y[0], y[1], down, WeightLayout::kInOut).square().mean();
    }
  }
  [[nodiscard]] std::vector<Tensor> inputs() const { return {low, B, below[0], below[1], down}; }

  Tensor low, B, beta, down, loss;
  std::array<Tensor, 2> below;
  std::vector<std::array<Tensor, 2>> outputs;
};

TEST(OpenGradient, PassesThroughOneGraphGiveTheSameBits) {
  const GatePair pair(5);
  const auto pass = [&] { return torch::autograd::grad({pair.loss}, pair.inputs(), {}, true); };
  const auto first = pass(), second = pass();
  for (size_t i = 0; i < first.size(); ++i) EXPECT_TRUE(torch::equal(second[i], first[i])) << i;
}

TEST(OpenGradient, PassesInSeveralThreadsDoNotMix) {
  const GatePair pair(5);
  const auto pass = [&] { return torch::autograd::grad({pair.loss}, pair.inputs(), {}, true); };
  const auto expected = pass();
  std::array<std::vector<Tensor>, 4> got;
  std::vector<std::thread> threads;
  for (auto& mine : got) {
    threads.emplace_back([&] {
      for (int i = 0; i < 20; ++i) mine = pass();
    });
  }
  for (auto& thread : threads) thread.join();
  for (const auto& mine : got) {
    for (size_t i = 0; i < expected.size(); ++i) {
      EXPECT_LT(relative_error(mine[i], expected[i]), 1e-5) << i;
    }
  }
}

TEST(OpenGradient, WhoLooksAtGateSeesAllOfItsGradient) {
  const GatePair pair(5);
  const auto asked = torch::autograd::grad({pair.loss}, {pair.outputs[1][0]}, {}, true);
  Tensor seen;
  pair.outputs[1][0].register_hook([&](const Tensor& gradient) { seen = gradient.clone(); });
  const auto expected = torch::autograd::grad({pair.loss}, pair.inputs(), {}, true);
  EXPECT_LT(relative_error(seen, asked[0]), 1e-6);
  const GatePair without(5);
  const auto got = torch::autograd::grad({without.loss}, without.inputs());
  for (size_t i = 0; i < got.size(); ++i) EXPECT_LT(relative_error(got[i], expected[i]), 1e-5) << i;
}

TEST(OpenGradient, OneTensorMayBeGateAndUp) {
  torch::manual_seed(15);
  const Tensor low = leaf(torch::randn({kRows, kRank})), B = leaf(torch::randn({kRank, kWidth}));
  const Tensor first = leaf(torch::randn({kRows, kWidth})), beta = leaf(torch::full({}, 0.7));
  const Tensor down = leaf(torch::randn({kWidth, kWidth}));
  const auto gradients = [&](bool fused) {
    Tensor y = first, loss = torch::zeros({});
    for (int block = 0; block < 4; ++block) {
      if (fused) {
        LowRankProducts products;
        y = cross_layer_sum(low, B, y, beta, kEpsilon, products);
        loss = loss + swiglu_product(y, y, down, WeightLayout::kInOut).square().mean();
      } else {
        y = signed_scale(beta, kEpsilon) * y + torch::mm(low, B);
        loss = loss + torch::mm(plain::swiglu(y, y), down).square().mean();
      }
    }
    return torch::autograd::grad({loss}, {low, B, first, beta, down});
  };
  const auto got = gradients(true), expected = gradients(false);
  for (size_t i = 0; i < got.size(); ++i) EXPECT_LT(relative_error(got[i], expected[i]), 2e-5) << i;
}

TEST(OpenGradient, WhereBetaIsFixedNothingIsOpened) {
  const GatePair pair(5, /*learns_beta=*/false);
  std::vector<Tensor> got;
  const auto pass = [&] { got = torch::autograd::grad({pair.loss}, pair.inputs()); };
  EXPECT_EQ(num_opened(pass), 0);
  const GatePair learning(5);
  const auto expected = torch::autograd::grad({learning.loss}, learning.inputs());
  for (size_t i = 0; i < got.size(); ++i) EXPECT_LT(relative_error(got[i], expected[i]), 1e-6) << i;
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
