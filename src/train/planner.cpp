#include "crnet/train/planner.h"

#include <c10/core/CachingDeviceAllocator.h>
#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <optional>

#include "crnet/core/error.h"
#include "crnet/core/format.h"
#include "crnet/model/causal_lm.h"
#include "crnet/model/costs.h"
#include "train/parallel_state.h"
#include "train/step_time.h"
#include "train/tensor_memory.h"

namespace crnet {
namespace {

StepShape step_shape(const PlannerInput& input, RecomputePlan plan) {
  const RunConfig& config = input.config;
  return {config.train.micro_batch,
          config.data.sequence_length,
          input.bf16,
          std::move(plan),
          config.accumulation_steps(input.num_processes) > 1,
          input.device.is_cpu()};
}

StateMemory state_of(const PlannerInput& input) {
  const bool accumulates = input.config.accumulation_steps(input.num_processes) > 1;
  return count_state(input.config.model, input.bf16, accumulates,
                     sharing_of(input.config.dist, input.num_processes, input.device));
}

PlanEstimate estimate(const PlannerInput& input, const StateMemory& state, RecomputePlan plan,
                      std::string name) {
  const StepShape shape = step_shape(input, std::move(plan));
  const ModelConfig& model = input.config.model;
  PlanEstimate estimate;
  estimate.name = std::move(name);
  estimate.plan = shape.recompute;
  estimate.memory = count_memory(model, shape, state);
  estimate.memory.peak += input.process_bytes;
  estimate.recompute_share =
      count_recompute(model, shape.sequence_length, shape.recompute).total() /
      count_flops(model, shape.sequence_length).training();
  estimate.seconds = predict_seconds(model, shape, input.rates);
  return estimate;
}

RecomputePlan plan_of(RecomputeStrategy strategy, const ModelConfig& model) {
  RecomputeConfig config;
  config.strategy = strategy;
  return make_plan(config, model);
}

// Of the lowest blocks, that are rebuilt.
struct Rebuilt {
  int64_t blocks;
  int64_t attention;  // so many of them, from the top, keep attention's results
  bool products;      // of X and A
};

// Y of anchors kept; graphs above what is rebuilt.
RecomputePlan mixed_plan(const PlannerInput& input, const Rebuilt& rebuilt,
                         const std::vector<int64_t>& anchors = {}, bool inverts = false) {
  RecomputePlan plan;
  plan.inverts = inverts;
  plan.max_amplification = input.config.recompute.max_amplification;
  plan.blocks.assign(static_cast<size_t>(input.config.model.num_layers), {.graph = true});
  for (int64_t i = 0; i < rebuilt.blocks; ++i) {
    plan.blocks[static_cast<size_t>(i)] = {.products = rebuilt.products,
                                           .attention = i >= rebuilt.blocks - rebuilt.attention};
  }
  for (const int64_t anchor : anchors) plan.blocks[static_cast<size_t>(anchor - 1)].outputs = true;
  // The graph of the block above holds them in any case.
  const bool has_outputs = input.config.model.architecture == Architecture::kCRNet;
  if (has_outputs && rebuilt.blocks < input.config.model.num_layers) {
    plan.blocks[static_cast<size_t>(rebuilt.blocks - 1)].outputs = true;
  }
  return plan;
}

constexpr int64_t kLongestInversion = 8;  // longer ones were not measured (docs/recomputation.md)

// Whether inversion down from `anchors` stays within the bound while β is what it starts with.
bool may_invert(const PlannerInput& input, const std::vector<int64_t>& anchors) {
  int64_t steps = 0, below = 0;
  for (const int64_t anchor : anchors) {
    steps = std::max(steps, anchor - below - 1);
    below = anchor;
  }
  const double c = std::abs(input.config.model.beta_init) + input.config.model.beta_epsilon;
  return steps <= kLongestInversion &&
         std::pow(1 / c, static_cast<double>(steps)) <= input.config.recompute.max_amplification;
}

void add_crnet_plans(const PlannerInput& input, const Rebuilt& rebuilt,
                     std::vector<RecomputePlan>& plans) {
  for (int64_t held = least_held_outputs(rebuilt.blocks); held <= rebuilt.blocks; ++held) {
    plans.push_back(mixed_plan(input, rebuilt, replay_anchors(rebuilt.blocks, held)));
  }
  if (input.config.train.cuda_graphs) return;  // the host would have to read every β
  for (int64_t stride = 2; stride <= rebuilt.blocks; ++stride) {
    const auto anchors = inverse_anchors(rebuilt.blocks, stride);
    if (!may_invert(input, anchors)) break;
    plans.push_back(mixed_plan(input, rebuilt, anchors, /*inverts=*/true));
  }
}

// In how many of the rebuilt blocks attention's results may be kept: none, all, and a few between.
std::vector<int64_t> attention_counts(const PlannerInput& input, int64_t rebuilt) {
  constexpr int64_t kParts = 8;
  std::vector<int64_t> counts = {0};
  if (!can_hold_attention(input.config.model, step_shape(input, {}))) return counts;
  for (int64_t part = 1; part <= kParts; ++part) {
    const int64_t count = rebuilt * part / kParts;
    if (count > counts.back()) counts.push_back(count);
  }
  return counts;
}

// Every plan that is looked at.
std::vector<RecomputePlan> candidates(const PlannerInput& input) {
  const ModelConfig& model = input.config.model;
  std::vector<RecomputePlan> plans = {plan_of(RecomputeStrategy::kNone, model)};
  for (int64_t blocks = 1; blocks <= model.num_layers; ++blocks) {
    // Without X A all runs again; of a CR-Net it is smaller than Y: see docs.
    if (model.architecture != Architecture::kCRNet) {
      plans.push_back(mixed_plan(input, {blocks, 0, /*products=*/false}));
    }
    if (model.architecture == Architecture::kLlama) continue;
    for (const int64_t attention : attention_counts(input, blocks)) {
      const Rebuilt rebuilt{blocks, attention, /*products=*/true};
      if (model.architecture == Architecture::kCRNet) {
        add_crnet_plans(input, rebuilt, plans);
      } else {
        plans.push_back(mixed_plan(input, rebuilt));
      }
    }
  }
  return plans;
}

std::vector<PlanEstimate> estimate_all(const PlannerInput& input) {
  const StateMemory state = state_of(input);
  std::vector<PlanEstimate> estimates;
  for (auto& plan : candidates(input)) {
    estimates.push_back(estimate(input, state, std::move(plan), "auto"));
  }
  return estimates;
}

// The fastest that fits, an exact one if there is any; nullptr where none does.
const PlanEstimate* fastest(const std::vector<PlanEstimate>& estimates, int64_t budget) {
  const PlanEstimate* best = nullptr;
  for (const auto& estimate : estimates) {
    if (estimate.memory.peak > budget) continue;
    const auto cost = [](const PlanEstimate& e) { return std::pair(e.plan.inverts, e.seconds); };
    if (best == nullptr || cost(estimate) < cost(*best)) best = &estimate;
  }
  return best;
}

int64_t least_peak(const PlannerInput& input) {
  int64_t least = std::numeric_limits<int64_t>::max();
  for (const auto& estimate : estimate_all(input)) {
    least = std::min(least, estimate.memory.peak);
  }
  return least;
}

std::string bytes(int64_t count) {
  return format_bytes(static_cast<double>(count));
}

// "train.micro_batch 8 -> 4 fits in 57.1 GiB"
std::string remedy(const PlannerInput& input, int64_t budget) {
  const int64_t now = input.config.train.micro_batch;
  PlannerInput smaller = input;
  if (smaller.config.train.global_batch_tokens == 0) {  // the update stays of the same size
    smaller.config.train.global_batch_tokens =
        input.config.micro_batch_tokens() * input.num_processes;
  }
  int64_t least = 0;
  for (int64_t micro = now - 1; micro >= 1; --micro) {
    if (now % micro != 0) continue;
    smaller.config.train.micro_batch = micro;
    least = least_peak(smaller);
    if (least > budget) continue;
    const std::string keep =
        input.config.train.global_batch_tokens > 0
            ? ""
            : format(" (with train.global_batch_tokens %ld, the update stays the same)",
                     static_cast<long>(smaller.config.train.global_batch_tokens));
    return format("train.micro_batch %ld -> %ld fits in %s", static_cast<long>(now),
                  static_cast<long>(micro), bytes(least).c_str()) +
           keep;
  }
  if (now == 1) return "a shorter data.sequence_length or a smaller model needs less";
  return "even train.micro_batch 1 needs " + bytes(least) + "; a smaller model needs less";
}

// The number in a file of one line, if there is one: "max" and a missing file give nothing.
std::optional<int64_t> number_in(const char* path) {
  std::ifstream file(path);
  int64_t number = 0;
  return file >> number ? std::optional(number) : std::nullopt;
}

int64_t available_on_cpu() {
  std::ifstream file("/proc/meminfo");
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with("MemAvailable:")) continue;
    const int64_t available = std::stoll(line.substr(13)) * 1024;
    const auto limit = number_in("/sys/fs/cgroup/memory.max"),
               used = number_in("/sys/fs/cgroup/memory.current");
    return limit && used ? std::min(available, *limit - *used) : available;
  }
  throw Error(
      "[recompute] expected MemAvailable in /proc/meminfo, got none; set "
      "recompute.memory_budget to a size");
}

// What is kept for later.
void return_freed_memory() {
#if defined(__GLIBC__)
  malloc_trim(0);
#endif
  return_free_tensor_memory();
}

}  // namespace

PlanEstimate estimate_plan(const PlannerInput& input, RecomputePlan plan, std::string name) {
  return estimate(input, state_of(input), std::move(plan), std::move(name));
}

std::vector<PlanEstimate> estimate_strategies(const PlannerInput& input) {
  using enum RecomputeStrategy;
  const ModelConfig& model = input.config.model;
  std::vector<RecomputeStrategy> strategies = {kNone, kFull};
  if (model.architecture == Architecture::kCRNet) strategies = {kNone, kFull, kInverse, kReplay};
  if (model.architecture == Architecture::kCoLA) strategies.push_back(kColaM);
  std::vector<PlanEstimate> estimates;
  for (const auto strategy : strategies) {
    estimates.push_back(estimate_plan(input, plan_of(strategy, model), enum_name(strategy)));
  }
  return estimates;
}

std::vector<PlanEstimate> plan_front(const PlannerInput& input, size_t count) {
  auto estimates = estimate_all(input);
  std::sort(estimates.begin(), estimates.end(), [](const auto& a, const auto& b) {
    return std::pair(a.memory.peak, a.seconds) < std::pair(b.memory.peak, b.seconds);
  });
  std::vector<PlanEstimate> front;
  for (auto& estimate : estimates) {
    if (front.empty() || estimate.seconds < front.back().seconds) front.push_back(estimate);
  }
  count = std::max<size_t>(count, 2);  // both ends
  if (front.size() <= count) return front;
  std::vector<PlanEstimate> thinned;
  for (size_t i = 0; i < count; ++i) {
    thinned.push_back(front[i * (front.size() - 1) / (count - 1)]);
  }
  return thinned;
}

PlanEstimate choose_plan(const PlannerInput& input, int64_t budget) {
  if (const auto best = nearest_plan(input, budget); best.memory.peak <= budget) return best;
  throw UsageError(
      format("recompute.memory_budget: expected at least %s, the least that a plan needs at "
             "train.micro_batch %ld, got %s; %s",
             bytes(least_peak(input)).c_str(), static_cast<long>(input.config.train.micro_batch),
             bytes(budget).c_str(), remedy(input, budget).c_str()));
}

PlanEstimate nearest_plan(const PlannerInput& input, int64_t budget) {
  const auto estimates = estimate_all(input);
  if (const auto* best = fastest(estimates, budget)) return *best;
  return *std::min_element(estimates.begin(), estimates.end(), [](const auto& a, const auto& b) {
    return a.memory.peak < b.memory.peak;
  });
}

InverseAccounting account_for_inverse(const PlannerInput& input) {
  const ModelConfig& model = input.config.model;
  const auto inverse = estimate_plan(input, plan_of(RecomputeStrategy::kInverse, model), "inverse");
  int64_t low = 0, anchors = 0;  // r of all blocks and projections
  for (int64_t layer = 0; layer < model.num_layers; ++layer) {
    anchors += inverse.plan.blocks[static_cast<size_t>(layer)].outputs ? 1 : 0;
    for (int64_t p = 0; p < kNumProjections; ++p) {
      low += model.low_rank(layer, static_cast<Projection>(p));
    }
  }
  const auto bytes = [&](int64_t outputs) {
    return (input.bf16 ? 2 : 4) * input.config.micro_batch_tokens() *
           (model.num_layers * model.hidden_size + low + anchors * outputs);
  };
  const int64_t o_and_down =
      model.out_features(Projection::kO) + model.out_features(Projection::kDown);
  const ActivationCounts& kept = inverse.memory.activations;
  return {kept.inputs + kept.products + kept.outputs, bytes(model.output_elements()),
          bytes(model.output_elements() - o_and_down)};
}

int64_t resolve_memory_budget(const std::string& budget, torch::Device device,
                              int local_processes) {
  const int64_t asked = parse_memory_budget(budget);
  if (asked > 0) return asked;
  const int64_t free =
      device.is_cuda()
          ? static_cast<int64_t>(
                c10::getDeviceAllocator(torch::kCUDA)->getMemoryInfo(device.index()).first)
          : available_on_cpu() / local_processes;
  return static_cast<int64_t>(kShareOfFree * static_cast<double>(free)) + process_bytes(device);
}

int64_t process_bytes(torch::Device device) {
  if (!device.is_cpu()) return 0;
  return_freed_memory();
  std::ifstream file("/proc/self/statm");
  int64_t total_pages = 0, resident_pages = 0;
  file >> total_pages >> resident_pages;
  return resident_pages * sysconf(_SC_PAGESIZE);
}

}  // namespace crnet
