#include "crnet/recompute/plan.h"

#include <algorithm>
#include <charconv>
#include <map>

#include "crnet/core/error.h"
#include "crnet/core/format.h"

namespace crnet {
namespace {

constexpr int64_t kInverseStride = 8;  // the paper's |A| = L/8

long as_long(int64_t value) {
  return static_cast<long>(value);
}

// {4} → "block ".
const char* blocks_word(const std::vector<int64_t>& blocks) {
  return blocks.size() == 1 ? "block " : "blocks ";
}

// {1, 2, 3, 7} → "1-3, 7".
std::string ranges(const std::vector<int64_t>& blocks) {
  std::string text;
  for (size_t i = 0; i < blocks.size(); ++i) {
    size_t last = i;
    while (last + 1 < blocks.size() && blocks[last + 1] == blocks[last] + 1) ++last;
    text += format("%s%ld", text.empty() ? "" : ", ", as_long(blocks[i]));
    if (last > i) text += format("-%ld", as_long(blocks[last]));
    i = last;
  }
  return text;
}

// Every `stride`-th block from the first one on.
std::vector<int64_t> equal_segments(int64_t num_blocks, int64_t stride) {
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

// Nothing that is set may be silently ignored.
void check_options(const RecomputeConfig& config) {
  using enum RecomputeStrategy;
  const auto refuse = [&](const char* key, const char* expected) {
    throw UsageError(format("recompute.%s: expected %s where recompute.strategy is %s", key,
                            expected, enum_name(config.strategy)));
  };
  const auto* list = std::get_if<std::vector<int64_t>>(&config.anchors);
  const bool has_anchors = config.strategy == kInverse || config.strategy == kReplay;
  if (!has_anchors && (list == nullptr || !list->empty())) refuse("anchors", "nothing");
  if (config.keep_attention && !has_anchors && config.strategy != kColaM) {
    refuse("keep_attention", "false");
  }
  const bool rebuilds_outputs = has_anchors || config.strategy == kAuto;
  if (config.check_every > 0 && !rebuilds_outputs) refuse("check_every", "0");
  if (parse_memory_budget(config.memory_budget) > 0 && config.strategy != kAuto) {
    refuse("memory_budget", "fit");
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
  return stride != nullptr ? equal_segments(num_blocks, *stride)
                           : replay_anchors(num_blocks, least_held_outputs(num_blocks));
}

}  // namespace

std::vector<int64_t> inverse_anchors(int64_t num_blocks, int64_t stride) {
  std::vector<int64_t> anchors;
  for (int64_t block = num_blocks; block > 1; block -= stride) anchors.push_back(block);
  if (num_blocks == 1) anchors.push_back(1);
  std::reverse(anchors.begin(), anchors.end());
  return anchors;
}

int64_t least_held_outputs(int64_t num_blocks) {
  int64_t held = 1;
  while (held * (held + 1) / 2 < num_blocks) ++held;
  return held;
}

std::vector<int64_t> replay_anchors(int64_t num_blocks, int64_t held) {
  const int64_t segments =
      std::min(num_blocks, std::max(held, least_held_outputs(num_blocks)));  // one anchor each
  std::vector<int64_t> anchors;
  int64_t next = 1;
  for (int64_t below = 0; below < segments; ++below) {
    anchors.push_back(next);
    const int64_t left_for_others = segments - below - 1;  // a block each
    next += std::min(segments - below, num_blocks - (next - 1) - left_for_others);
  }
  return anchors;
}

bool RecomputePlan::is_active() const {
  return std::any_of(blocks.begin(), blocks.end(), [](const BlockPlan& b) { return !b.graph; });
}

RecomputePlan make_plan(const RecomputeConfig& config, int64_t num_blocks) {
  RecomputePlan plan;
  plan.max_amplification = config.max_amplification;
  check_options(config);
  const auto L = static_cast<size_t>(num_blocks);
  switch (config.strategy) {
    case RecomputeStrategy::kNone:
    case RecomputeStrategy::kAuto:
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
  for (auto& block : plan.blocks) block.attention = config.keep_attention && block.products;
  return plan;
}

std::string describe(const RecomputePlan& plan) {
  if (!plan.is_active()) return "everything kept";
  std::vector<int64_t> graphs, again, rebuilt, anchors, attention;
  for (size_t i = 0; i < plan.blocks.size(); ++i) {
    const BlockPlan& block = plan.blocks[i];
    const auto number = static_cast<int64_t>(i) + 1;
    (block.graph ? graphs : block.products ? rebuilt : again).push_back(number);
    if (block.products && block.outputs) anchors.push_back(number);
    if (block.attention) attention.push_back(number);
  }
  std::vector<std::string> parts;
  if (!rebuilt.empty())
    parts.push_back(blocks_word(rebuilt) + ranges(rebuilt) + " rebuilt from X A");
  if (!anchors.empty()) {
    parts.back() += " and Y of " + ranges(anchors) + (plan.inverts ? ", inverted" : ", replayed");
  }
  if (!attention.empty()) {
    const bool all = attention.size() == rebuilt.size();
    parts.back() += all ? ", attention kept" : ", attention of " + ranges(attention) + " kept";
  }
  if (!again.empty()) parts.push_back(blocks_word(again) + ranges(again) + " run again");
  if (!graphs.empty()) parts.push_back(blocks_word(graphs) + ranges(graphs) + " kept");
  std::string text;
  for (const auto& part : parts) text += (text.empty() ? "" : "; ") + part;
  return text;
}

int64_t parse_memory_budget(const std::string& text) {
  if (text == "fit") return 0;
  static const std::map<std::string, double> kUnits = {
      {"", 1},      {"B", 1},        {"kB", 1e3},     {"KB", 1e3},     {"MB", 1e6},    {"GB", 1e9},
      {"TB", 1e12}, {"KiB", 0x1p10}, {"MiB", 0x1p20}, {"GiB", 0x1p30}, {"TiB", 0x1p40}};
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const std::string unit(*end == ' ' ? end + 1 : end);
  const auto factor = kUnits.find(unit);
  if (error != std::errc() || factor == kUnits.end() || !(number * factor->second >= 1) ||
      number * factor->second > 1e18) {
    throw UsageError("recompute.memory_budget: expected fit, or a size such as 60GiB, got " + text);
  }
  return static_cast<int64_t>(number * factor->second);
}

}  // namespace crnet
