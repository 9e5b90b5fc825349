// Outputs that are made again in the backward pass: the same bits as if they had been kept, and
// nothing of them is kept.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <functional>
#include <string>
#include <vector>

#include "counting_allocator.h"
#include "crnet/core/error.h"
#include "crnet/ops/attention.h"
#include "crnet/ops/low_rank_residual.h"
#include "crnet/ops/matrix_product.h"
#include "crnet/ops/rms_norm.h"
#include "crnet/ops/rope.h"
#include "crnet/ops/swiglu.h"
#include "gradcheck.h"
#include "ops/library_attention.h"
#include "ops/remade.h"

namespace crnet {
namespace {

using testing::leaf;
using torch::Tensor;
using Tensors = std::vector<Tensor>;

// Passes a tensor on as it is, or, for comparison, as a copy that its reader has to keep.
using Pass = std::function<Tensor(const Tensor&)>;
Tensor direct(const Tensor& t) {
  return t;
}
Tensor copied(const Tensor& t) {
  return t.clone();
}

struct Chain {
  std::string name;
  Tensors inputs;
  std::function<Tensor(const Tensors& inputs, const Pass& pass)> run;
  int64_t remade;  // numbers that need not be kept
  bool is_of_attention = false;
};

constexpr int64_t kB = 2, kT = 11, kC = 24, kF = 40, kR = 5, kHeads = 3;
constexpr double kEpsilon = 1e-6;

Tensor random(at::IntArrayRef sizes, torch::ScalarType dtype) {
  return torch::randn(sizes).to(dtype);
}

Chain norm_read_three_times(torch::ScalarType dtype) {
  return {"a norm's result, read by three products",
          {random({kB, kT, kC}, dtype), torch::randn({kC}), torch::randn({kC, kF}),
           torch::randn({kC, kR}), torch::randn({kR, kF}), random({kB, kT, kF}, dtype),
           torch::full({}, 0.8), torch::randn({kF, kC})},
          [](const Tensors& t, const Pass& pass) {
            const Tensor x = pass(rms_norm(t[0], t[1], kEpsilon));
            return matrix_product(x, t[2], WeightLayout::kInOut) +
                   low_rank_residual(x, t[3], t[4], t[5], t[6], kEpsilon) +
                   matrix_product(x, t[7], WeightLayout::kOutIn);
          },
          kB * kT * kC};
}

Chain norm_of_a_sum(torch::ScalarType dtype) {
  return {"a sum and its norm, each read by a product, and a norm of the sum's norm",
          {random({kB, kT, kC}, dtype), random({kB, kT, kC}, dtype), torch::randn({kC}),
           torch::randn({kC, kF})},
          [](const Tensors& t, const Pass& pass) {
            const auto [sum, normed] = residual_rms_norm(t[0], t[1], t[2], kEpsilon);
            const Tensor again = rms_norm(pass(sum), t[2], kEpsilon);
            return matrix_product(pass(normed), t[3], WeightLayout::kInOut) +
                   matrix_product(pass(again), t[3], WeightLayout::kInOut);
          },
          3 * kB * kT * kC};
}

Chain gated(torch::ScalarType dtype) {
  return {"gate ⊙ up, read by a product",
          {random({kB, kT, kF}, dtype), random({kB, kT, kF}, dtype), torch::randn({kF, kC})},
          [](const Tensors& t, const Pass& pass) {
            return matrix_product(pass(swiglu(t[0], t[1])), t[2], WeightLayout::kInOut);
          },
          kB * kT * kF};
}

Chain rotated(torch::ScalarType dtype) {
  const int64_t D = kC / kHeads;
  return {"rotated queries and keys, read by attention",
          {random({kB, kT, kHeads, D}, dtype), random({kB, kT, 1, D}, dtype),
           random({kB, kT, 1, D}, dtype)},
          [table = rope_table(kT, D, 10000)](const Tensors& t, const Pass& pass) {
            const auto rotated = [&](const Tensor& x) {
              return rope(x, table.cosine.to(x.device()), table.sine.to(x.device()), /*offset=*/0,
                          /*x_is_kept=*/true);
            };
            return causal_attention(pass(rotated(t[0])), pass(rotated(t[1])), t[2]);
          },
          kB * kT * (kHeads + 1) * D,
          /*is_of_attention=*/true};
}

std::vector<Chain> chains(torch::ScalarType dtype) {
  torch::manual_seed(3);
  return {norm_read_three_times(dtype), norm_of_a_sum(dtype), gated(dtype), rotated(dtype)};
}

Tensors leaves(const Chain& chain, torch::Device device = torch::kCPU) {
  Tensors all;
  for (const Tensor& t : chain.inputs) all.push_back(leaf(t.to(device)));
  return all;
}

Tensors gradients(const Tensor& result, const Tensors& inputs, bool keeps_graph = false) {
  const Tensor weights = torch::linspace(-1, 1, result.numel()).view_as(result).to(result);
  return torch::autograd::grad({(result * weights).sum()}, inputs, {}, keeps_graph);
}

void expect_same_bits(const Tensors& a, const Tensors& b, const std::string& what) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(a[i].equal(b[i])) << what << ", input " << i;
}

TEST(Remade, GradientsHaveTheBitsOfKeptOutputs) {
  for (const auto& device : testing::devices()) {
    for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
      for (const Chain& chain : chains(dtype)) {
        if (chain.is_of_attention && !can_hold_attention(device.is_cpu(), dtype, kC / kHeads))
          continue;
        const Tensors a = leaves(chain, device), b = leaves(chain, device);
        expect_same_bits(gradients(chain.run(a, direct), a), gradients(chain.run(b, copied), b),
                         chain.name);
      }
    }
  }
}

TEST(Remade, AnOutputThatWasChangedInPlaceIsKept) {
  for (const Chain& chain : chains(torch::kFloat32)) {
    const auto doubled = [](const Pass& pass) {
      return [pass](const Tensor& t) {
        const torch::NoGradGuard no_grad;
        t.mul_(2);
        const torch::AutoGradMode graph(true);
        return pass(t);
      };
    };
    const Tensors a = leaves(chain), b = leaves(chain);
    expect_same_bits(gradients(chain.run(a, doubled(direct)), a),
                     gradients(chain.run(b, doubled(copied)), b), chain.name);
  }
}

TEST(Remade, SecondDerivativesAreAnError) {
  for (const Chain& chain : chains(torch::kFloat32)) {
    const Tensors inputs = leaves(chain);
    const Tensor sum = chain.run(inputs, direct).sum();
    EXPECT_THROW(torch::autograd::grad({sum}, inputs, {}, std::nullopt, /*create_graph=*/true),
                 Error)
        << chain.name;
  }
}

TEST(Remade, RopeOffersNothingUnlessItsInputIsKeptAnyway) {
  const RopeTable table = rope_table(kT, kC / kHeads, 10000);
  const Tensor x = leaf(torch::randn({kB, kT, kC}));
  for (const bool x_is_kept : {false, true}) {
    const Tensor y = rope(x, table.cosine, table.sine, /*offset=*/0, x_is_kept);
    EXPECT_EQ(rope_output(y.grad_fn().get(), 0) != nullptr, x_is_kept);
  }
}

TEST(ResidualRmsNorm, RefusesWhatDoesNotFit) {
  const Tensor x = torch::ones({2, 3}), w = torch::ones({3});
  EXPECT_THROW(residual_rms_norm(x, torch::ones({3}), w, kEpsilon), Error);
  EXPECT_THROW(residual_rms_norm(x, x.to(torch::kBFloat16), w, kEpsilon), Error);
  EXPECT_THROW(residual_rms_norm(x, x, torch::ones({2}), kEpsilon), Error);
}

TEST(Remade, ReadersKeepNothing) {
  for (const Chain& chain : chains(torch::kFloat32)) {
    const Tensors inputs = leaves(chain);
    const auto kept_bytes = [&](const Pass& pass) {
      const testing::CountingAllocator allocator;
      const Tensor result = chain.run(inputs, pass);
      return allocator.live_bytes();
    };
    EXPECT_EQ(kept_bytes(copied) - kept_bytes(direct),
              chain.remade * static_cast<int64_t>(sizeof(float)))
        << chain.name;
  }
}

TEST(Remade, ASecondBackwardPassMakesThemAgain) {
  for (const Chain& chain : chains(torch::kFloat32)) {
    const Tensors inputs = leaves(chain);
    const Tensor result = chain.run(inputs, direct);
    const Tensors first = gradients(result, inputs, /*keeps_graph=*/true);
    expect_same_bits(gradients(result, inputs), first, chain.name);
  }
}

TEST(Remade, NothingOfThemStaysAfterABackwardPass) {
  for (const Chain& chain : chains(torch::kFloat32)) {
    const Tensors inputs = leaves(chain);
    const testing::CountingAllocator allocator;
    const Tensor result = chain.run(inputs, direct);
    const int64_t before = allocator.live_bytes();
    static_cast<void>(gradients(result, inputs, /*keeps_graph=*/true));
    EXPECT_EQ(allocator.live_bytes(), before) << chain.name;
  }
}

TEST(Remade, AnInputThatWasChangedInPlaceIsAnError) {
  for (const Chain& chain : chains(torch::kFloat32)) {
    const Tensors inputs = leaves(chain);
    const Tensor result = chain.run(inputs, direct);
    {
      const torch::NoGradGuard no_grad;
      inputs[0].add_(1);
    }
    EXPECT_THROW(gradients(result, inputs), c10::Error) << chain.name;
  }
}

}  // namespace
}  // namespace crnet
