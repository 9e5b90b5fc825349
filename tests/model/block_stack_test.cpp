// BlockStack under a model that is not ours: two CRNetLayers per block, no attention.
#include "crnet/recompute/block_stack.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <map>

#include "crnet/core/error.h"
#include "crnet/model/crnet_layer.h"
#include "crnet/model/projection.h"
#include "crnet/ops/low_rank_residual.h"

namespace crnet {
namespace {

using torch::Tensor;

constexpr int64_t kWidth = 12, kInner = 20, kBlocks = 6;

/// hidden + narrow(tanh(wide(hidden))): B batch rows of kWidth.
struct StrangersBlock {
  CRNetLayer wide, narrow;

  explicit StrangersBlock(bool first)
      : wide(CRNetLayerOptions(kWidth, kInner)
                 .r(3)
                 .first(first)
                 .init_std(0.3)
                 .low_rank_init(LowRankInit::kProduct)),
        narrow(CRNetLayerOptions(kInner, kWidth)
                   .r(2)
                   .first(first)
                   .init_std(0.3)
                   .low_rank_init(LowRankInit::kProduct)) {}

  BlockState forward(const BlockState& below) {
    const auto y_prev = [&](size_t i) {
      return below.outputs.empty() ? Tensor() : below.outputs[i];
    };
    const Tensor inner = wide(below.hidden, y_prev(0));          // [B, kInner]
    const Tensor outer = narrow(torch::tanh(inner), y_prev(1));  // [B, kWidth]
    return {below.hidden + outer, {inner, outer}};
  }

  [[nodiscard]] std::vector<Tensor> parameters() const {
    auto all = wide->parameters();
    for (const auto& p : narrow->parameters()) all.push_back(p);
    return all;
  }
};

using Call = std::function<BlockState(StrangersBlock&, const BlockState&)>;

std::vector<StackBlock> make_blocks(const Call& call) {
  torch::manual_seed(1);
  std::vector<StackBlock> blocks;
  for (int64_t i = 0; i < kBlocks; ++i) {
    auto block = std::make_shared<StrangersBlock>(i == 0);
    blocks.push_back({[block, call](const BlockState& below) { return call(*block, below); },
                      block->parameters()});
  }
  return blocks;
}

BlockState as_it_is(StrangersBlock& block, const BlockState& below) {
  return block.forward(below);
}

RecomputePlan plan_of(RecomputeStrategy strategy) {
  RecomputeConfig config;
  config.strategy = strategy;
  if (strategy != RecomputeStrategy::kFull) config.anchors = int64_t{3};
  return make_plan(config, kBlocks);
}

std::vector<Tensor> gradients_of(const RecomputePlan& plan, const Call& call = as_it_is,
                                 const ParameterUsePtr& use = nullptr) {
  const auto blocks = make_blocks(call);
  std::vector<Tensor> wanted = {torch::randn({9, kWidth}).requires_grad_()};
  for (const auto& block : blocks) {
    wanted.insert(wanted.end(), block.parameters.begin(), block.parameters.end());
  }
  BlockStack stack(plan);
  // Gradients that are returned, not accumulated, have to arrive too.
  return torch::autograd::grad({stack.forward(blocks, wanted[0], use).square().sum()}, wanted,
                               /*grad_outputs=*/{}, /*retain_graph=*/{}, /*create_graph=*/false,
                               /*allow_unused=*/true);
}

double largest_difference(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].defined(), b[i].defined());
    if (!b[i].defined()) continue;
    largest = std::max(largest, (a[i] - b[i]).norm().item<double>() / b[i].norm().item<double>());
  }
  return largest;
}

TEST(BlockStackTest, AStrangersBlocksGetTheSameGradients) {
  const auto kept = gradients_of({});
  EXPECT_EQ(largest_difference(gradients_of(plan_of(RecomputeStrategy::kReplay)), kept), 0);
  EXPECT_EQ(largest_difference(gradients_of(plan_of(RecomputeStrategy::kFull)), kept), 0);
  EXPECT_LT(largest_difference(gradients_of(plan_of(RecomputeStrategy::kInverse)), kept), 1e-4);
}

// Under a stack whose parameters come and go, every block has nodes around it.
TEST(BlockStackTest, ParametersInUseChangeNoBit) {
  const auto use = c10::make_intrusive<ParameterUse>();
  use->before = [](size_t, bool) {};
  use->after = [](size_t) {};
  const auto kept = gradients_of({});
  for (const auto& plan : {RecomputePlan(), plan_of(RecomputeStrategy::kReplay)}) {
    EXPECT_EQ(largest_difference(gradients_of(plan, as_it_is, use), kept), 0);
  }
}

// The hidden state is an output of a rebuilt block like any other.
TEST(BlockStackTest, AResidualAboveTheStackMayReadTheHiddenState) {
  const auto gradients_above = [](const RecomputePlan& plan) {
    BlockStack stack(plan);
    const auto blocks = make_blocks(as_it_is);
    const Tensor hidden = torch::linspace(-1, 1, 4 * kWidth).view({4, kWidth}).requires_grad_();
    const Tensor A = torch::ones({kWidth, 2}), B = torch::ones({2, kWidth});
    const Tensor above = low_rank_residual(torch::ones({4, kWidth}), A, B,
                                           stack.forward(blocks, hidden), torch::ones({}), 1e-6);
    return torch::autograd::grad({above.square().sum()}, {hidden});
  };
  const auto kept = gradients_above({});
  EXPECT_LT(largest_difference(gradients_above(plan_of(RecomputeStrategy::kFull)), kept), 1e-5);
}

// They see it, and may change it, whole.
TEST(BlockStackTest, HooksOfABlocksOwnSeeTheWholeGradient) {
  const Call halves = [](StrangersBlock& block, const BlockState& below) {
    auto above = block.forward(below);
    if (above.outputs[0].requires_grad()) {
      above.outputs[0].register_hook([](const Tensor& gradient) { return gradient * 0.5; });
    }
    return above;
  };
  const auto kept = gradients_of({}, halves);
  EXPECT_LT(largest_difference(gradients_of(plan_of(RecomputeStrategy::kFull), halves), kept),
            1e-5);
}

TEST(BlockStackTest, AFullRankLayerMayStandBesideCRNetLayers) {
  const FullRankLayer beside(kWidth, kWidth);
  beside->weight.data().fill_(0.01);
  const Call with_it = [beside](StrangersBlock& block, const BlockState& below) {
    auto above = block.forward(below);
    above.hidden = above.hidden + FullRankLayer(beside)->forward(below.hidden);
    return above;
  };
  const auto kept = gradients_of({}, with_it);
  EXPECT_EQ(largest_difference(gradients_of(plan_of(RecomputeStrategy::kReplay), with_it), kept),
            0);
}

TEST(BlockStackTest, AnOutputThatNoGradientComesByIsInvertedAllTheSame) {
  const auto last_without_narrow = [] {
    return [seen = std::make_shared<std::map<const StrangersBlock*, int64_t>>()](
               StrangersBlock& block, const BlockState& below) {
      auto above = block.forward(below);
      const int64_t place = seen->emplace(&block, std::ssize(*seen)).first->second;
      if (place == kBlocks - 1) above.hidden = below.hidden + above.outputs[0].narrow(1, 0, kWidth);
      return above;
    };
  };
  const auto kept = gradients_of({}, last_without_narrow());
  const auto rebuilt = gradients_of(plan_of(RecomputeStrategy::kInverse), last_without_narrow());
  EXPECT_LT(largest_difference(rebuilt, kept), 1e-4);
}

// Its placeholder is NaN, so that a gradient is never silently wrong.
TEST(BlockStackTest, ABlockThatReadsAnOutputByTheWayGetsNoGradientFromInversion) {
  const Call reads_by_the_way = [](StrangersBlock& block, const BlockState& below) {
    auto above = block.forward(below);
    if (!below.outputs.empty()) above.hidden = above.hidden + below.outputs[1].tanh();
    return above;
  };
  const auto kept = gradients_of({}, reads_by_the_way);
  EXPECT_EQ(
      largest_difference(gradients_of(plan_of(RecomputeStrategy::kReplay), reads_by_the_way), kept),
      0);
  EXPECT_TRUE(gradients_of(plan_of(RecomputeStrategy::kInverse), reads_by_the_way)[0]
                  .isnan()
                  .all()
                  .item<bool>());
}

TEST(BlockStackTest, BlocksWithTheirOwnGraphMayBeMixedIn) {
  const auto kept = gradients_of({});
  auto plan = plan_of(RecomputeStrategy::kReplay);
  plan.blocks[0] = {.graph = true};
  plan.blocks[1] = {.products = true, .outputs = true};
  plan.blocks[4] = {.graph = true};
  plan.blocks[5] = {.products = true, .outputs = true};
  EXPECT_EQ(largest_difference(gradients_of(plan), kept), 0);
}

std::string error_with(const Call& call) {
  try {
    BlockStack stack(plan_of(RecomputeStrategy::kReplay));
    stack.forward(make_blocks(call), torch::randn({4, kWidth}));
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(BlockStackTest, ABlockThatBreaksTheRulesIsNamed) {
  EXPECT_THAT(error_with([](StrangersBlock& block, const BlockState& below) {
                auto above = block.forward(below);
                above.outputs.pop_back();
                return above;
              }),
              ::testing::HasSubstr("block 1: expected as many outputs as it calls CRNetLayers"));
  EXPECT_THAT(error_with([](StrangersBlock& block, const BlockState& below) {
                auto above = block.forward(below);
                std::swap(above.outputs[0], above.outputs[1]);
                return above;
              }),
              ::testing::HasSubstr("block 1: expected output i to be that of the i-th CRNetLayer"));
}

TEST(BlockStackTest, ABlockThatWritesInPlaceIsNamed) {
  EXPECT_THAT(error_with([](StrangersBlock& block, const BlockState& below) {
                auto above = block.forward(below);
                above.outputs[0].tanh_();
                return above;
              }),
              ::testing::HasSubstr("block 1: expected not to change an output in place"));
  EXPECT_THAT(error_with([](StrangersBlock& block, const BlockState& below) {
                if (!below.outputs.empty()) Tensor(below.outputs[0]).add_(1);
                return block.forward(below);
              }),
              ::testing::HasSubstr("block 2: expected not to change its input in place"));
  EXPECT_THAT(error_with([](StrangersBlock& block, const BlockState& below) {
                auto above = block.forward(below);
                Tensor hidden = below.hidden;
                above.hidden = hidden.add_(1);
                return above;
              }),
              ::testing::HasSubstr("block 1: expected not to change its input in place"));
}

TEST(BlockStackTest, APlanThatCannotBeFollowedIsRefused) {
  const auto error_of = [](const RecomputePlan& plan) -> std::string {
    try {
      static_cast<void>(gradients_of(plan));
    } catch (const std::exception& error) {
      return error.what();
    }
    return "no error";
  };
  auto inverse = plan_of(RecomputeStrategy::kInverse);
  inverse.blocks.back().outputs = false;  // nothing to start from
  EXPECT_THAT(error_of(inverse), ::testing::HasSubstr("keep outputs of block"));
  inverse = plan_of(RecomputeStrategy::kInverse);
  inverse.blocks[5] = {.graph = true};
  inverse.blocks[4] = {.products = true};
  EXPECT_THAT(error_of(inverse), ::testing::HasSubstr("keep outputs of block"));
  auto replay = plan_of(RecomputeStrategy::kReplay);
  replay.blocks[1] = {};
  EXPECT_THAT(error_of(replay), ::testing::HasSubstr("X A of block 2"));
  inverse = plan_of(RecomputeStrategy::kInverse);
  inverse.blocks[5] = {.graph = true};
  inverse.blocks[4].outputs = true;
  EXPECT_EQ(error_of(inverse), "no error");
}

TEST(BlockStackTest, APlanForOtherBlocksIsRefused) {
  BlockStack stack(make_plan({.strategy = RecomputeStrategy::kFull}, kBlocks + 1));
  EXPECT_THROW(stack.forward(make_blocks(as_it_is), torch::randn({4, kWidth})), Error);
}

}  // namespace
}  // namespace crnet
