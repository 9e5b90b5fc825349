#include "cli/plan_recompute.h"

#include <cstdio>

#include "crnet/core/error.h"
#include "crnet/core/format.h"
#include "crnet/model/causal_lm.h"
#include "crnet/train/plan_plot.h"

namespace crnet {
namespace {

std::string bytes(int64_t count) {
  return count == 0 ? "-" : format_bytes(static_cast<double>(count));
}

void print_header() {
  std::printf("  %-10s %9s %9s %9s %9s %9s %9s %9s %6s %9s %7s\n", "strategy", "X", "X A",
              "anchors", "attention", "graphs", "working", "peak", "again", "seconds", "x none");
}

void print_estimate(const PlanEstimate& estimate, double base_seconds) {
  const ActivationCounts& kept = estimate.memory.activations;
  std::printf("  %-10s %9s %9s %9s %9s %9s %9s %9s %5.1f%% %9s %7.3f\n", estimate.name.c_str(),
              bytes(kept.inputs).c_str(), bytes(kept.products).c_str(), bytes(kept.outputs).c_str(),
              bytes(kept.attention).c_str(), bytes(kept.graphs).c_str(),
              bytes(estimate.memory.working_set).c_str(), bytes(estimate.memory.peak).c_str(),
              100 * estimate.recompute_share, format("%.4g", estimate.seconds).c_str(),
              estimate.seconds / base_seconds);
}

// What the paper counts for inversion: X A of all blocks, the first included, and of the anchors'
// outputs q, k, v, gate and up.
void print_accounting(const RunConfig& config, const PlanEstimate& inverse) {
  const ModelConfig& model = config.model;
  int64_t low = 0, all = 0, without_o_and_down = 0;
  for (int64_t p = 0; p < kNumProjections; ++p) {
    const auto projection = static_cast<Projection>(p);
    const int64_t out = model.out_features(projection);
    low += model.low_rank(model.num_layers - 1, projection);
    all += out;
    if (projection != Projection::kO && projection != Projection::kDown) without_o_and_down += out;
  }
  int64_t anchors = 0;
  for (const auto& block : inverse.plan.blocks) anchors += block.outputs ? 1 : 0;
  const int64_t size = config.train.precision == PrecisionChoice::kFp32 ? 4 : 2;
  const auto counted = [&](int64_t outputs) {
    return bytes(size * config.micro_batch_tokens() *
                 (model.num_layers * (model.hidden_size + low) + anchors * outputs));
  };
  const ActivationCounts& kept = inverse.memory.activations;
  std::printf(
      "  inverse keeps %s. With X A of a low-rank first block too: %s; of that, with q, k, v, gate "
      "and up of the anchors alone, as arXiv 2509.18993 counts: %s\n",
      bytes(kept.inputs + kept.products + kept.outputs).c_str(), counted(all).c_str(),
      counted(without_o_and_down).c_str());
}

PlannerInput measured_input(const RunConfig& config) {
  Runtime runtime = select_runtime(config.train);
  // Precision auto is reckoned as bf16, as in the table of memory: the run may be on another
  // machine.
  const bool bf16 = config.train.precision != PrecisionChoice::kFp32;
  runtime.compute_dtype = bf16 ? torch::kBFloat16 : torch::kFloat32;
  const auto rate = [](double value) { return format_count(value); };
  PlannerInput input{config, bf16,
                     measure_machine_rates(runtime, config.model, config.data.sequence_length)};
  const MachineRates& rates = input.rates;
  std::printf(
      "Recomputation, on %s: %sFLOP/s wide products, %s low-rank, %s attention, %s its "
      "backward; %sB/s memory\n",
      describe(runtime).c_str(), rate(rates.products).c_str(),
      rate(rates.low_rank_products).c_str(), rate(rates.attention_forward).c_str(),
      rate(rates.attention_backward).c_str(), rate(rates.memory).c_str());
  return input;
}

}  // namespace

void print_recompute(const LoadedConfig<RunConfig>& loaded, const std::string& plot) {
  const PlannerInput input = measured_input(loaded.config);
  const auto strategies = estimate_strategies(input);
  const auto front = plan_front(input);
  const double base = strategies.front().seconds;
  print_header();
  for (const auto& estimate : strategies) print_estimate(estimate, base);
  for (const auto& estimate : strategies) {
    if (estimate.name == enum_name(RecomputeStrategy::kInverse)) {
      print_accounting(loaded.config, estimate);
    }
  }
  std::printf("  Plans that no other beats in memory and time (recompute.strategy auto):\n");
  for (const auto& estimate : front) {
    print_estimate(estimate, base);
    std::printf("             %s\n", describe(estimate.plan).c_str());
  }
  if (!plot.empty()) {
    write_plan_svg(plot, strategies, front, "Recomputation: " + loaded.path);
    std::printf("  drawn in %s\n", plot.c_str());
  }
  if (loaded.config.recompute.strategy != RecomputeStrategy::kAuto) return;
  const int64_t budget = resolve_memory_budget(loaded.config.recompute.memory_budget,
                                               select_runtime(loaded.config.train).device);
  const PlanEstimate chosen = loaded.located([&] { return choose_plan(input, budget); });
  std::printf("  auto, within %s:\n", bytes(budget).c_str());
  print_estimate(chosen, base);
  std::printf("             %s\n", describe(chosen.plan).c_str());
}

}  // namespace crnet
