#include "crnet/recompute/plan.h"

#include <algorithm>
#include <cmath>

#include "crnet/core/error.h"
#include "crnet/core/format.h"

namespace crnet {
namespace {

constexpr int64_t kInverseStride = 8;  // the paper's |A| = L/8

long as_long(int64_t value) {
  return static_cast<long>(value);
}

// Blocks per segment so that the anchors and the outputs of one segment are fewest together.
int64_t replay_stride(int64_t num_blocks) {
  int64_t best = 1;
  const auto held = [&](int64_t stride) { return (num_blocks + stride - 1) / stride + stride - 1; };
  for (int64_t stride = 2; stride <= num_blocks; ++stride) {
    if (held(stride) < held(best)) best = stride;
  }
  return best;
}

// Down from the last block, for all but the first: arXiv 2509.18993 wants L ∈ A and 1 ∉ A.
std::vector<int64_t> inverse_anchors(int64_t num_blocks, int64_t stride) {
  std::vector<int64_t> anchors;
  for (int64_t block = num_blocks; block > 1; block -= stride) anchors.push_back(block);
  if (num_blocks == 1) anchors.push_back(1);
  return anchors;
}

// Every segment's first block.
std::vector<int64_t> replay_anchors(int64_t num_blocks, int64_t stride) {
  std::vector<int64_t> anchors;
  for (int64_t block = 1; block <= num_blocks; block += stride) anchors.push_back(block);
  return anchors;
}

void check_anchors(const std::vector<int64_t>& anchors, RecomputeStrategy strategy,
                   int64_t num_blocks) {
  const auto has = [&](int64_t block) {
    return std::find(anchors.begin(), anchors.end(), block) != anchors.end();
  };
  for (const int64_t anchor : anchors) {
    if (anchor >= 1 && anchor <= num_blocks) continue;
    throw UsageError(format("recompute.anchors: expected blocks from 1 to %ld, got %ld",
                            as_long(num_blocks), as_long(anchor)));
  }
  if (strategy == RecomputeStrategy::kReplay) {
    if (has(1)) return;
    throw UsageError(
        "recompute.anchors: expected block 1 among them, since replay goes up from there; add it");
  }
  if (!has(num_blocks)) {
    throw UsageError(
        format("recompute.anchors: expected the last block (%ld) among them, since inversion goes "
               "down from there; add it",
               as_long(num_blocks)));
  }
  if (has(1) && num_blocks > 1) {
    throw UsageError(
        "recompute.anchors: expected blocks from 2 on, got 1, whose outputs the inversion of block "
        "2 gives; leave it out");
  }
}

std::vector<int64_t> choose_anchors(const RecomputeConfig& config, int64_t num_blocks) {
  const auto* list = std::get_if<std::vector<int64_t>>(&config.anchors);
  if (list != nullptr && !list->empty()) {
    check_anchors(*list, config.strategy, num_blocks);
    return *list;
  }
  const auto* stride = std::get_if<int64_t>(&config.anchors);
  if (stride != nullptr && *stride < 1) {
    throw UsageError(
        format("recompute.anchors: expected a stride of at least 1, got %ld", as_long(*stride)));
  }
  if (config.strategy == RecomputeStrategy::kInverse) {
    return inverse_anchors(num_blocks, stride != nullptr ? *stride : kInverseStride);
  }
  return replay_anchors(num_blocks, stride != nullptr ? *stride : replay_stride(num_blocks));
}

}  // namespace

bool RecomputePlan::is_active() const {
  return std::any_of(blocks.begin(), blocks.end(), [](const BlockPlan& b) { return !b.graph; });
}

RecomputePlan make_plan(const RecomputeConfig& config, int64_t num_blocks) {
  RecomputePlan plan;
  plan.max_amplification = config.max_amplification;
  const auto L = static_cast<size_t>(num_blocks);
  switch (config.strategy) {
    case RecomputeStrategy::kNone:
      plan.blocks.assign(L, {.graph = true});
      break;
    case RecomputeStrategy::kFull:
      plan.blocks.assign(L, {.outputs = true});
      plan.blocks.back().outputs = false;  // no block above reads them
      break;
    case RecomputeStrategy::kColaM:
      plan.blocks.assign(L, {.products = true});
      break;
    case RecomputeStrategy::kInverse:
    case RecomputeStrategy::kReplay:
      plan.inverts = config.strategy == RecomputeStrategy::kInverse;
      plan.blocks.assign(L, {.products = true});
      for (const int64_t anchor : choose_anchors(config, num_blocks)) {
        plan.blocks[static_cast<size_t>(anchor - 1)].outputs = true;
      }
      break;
  }
  return plan;
}

}  // namespace crnet
