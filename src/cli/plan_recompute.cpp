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

void print_header(int64_t process_bytes) {
  const std::string process =
      process_bytes == 0 ? "" : format(" and the process's %s", bytes(process_bytes).c_str());
  std::printf(
      "  kept for the backward pass: of rebuilt blocks inputs X, X A, anchors (outputs to rebuild "
      "from) and attention;\n"
      "  graphs, all of the other blocks; stored, the sum. working: of the block that is "
      "differentiated. peak: at the\n"
      "  moment that has most, with weights, gradients, moments%s.\n"
      "  again: FLOPs done again, as a part of the step's. seconds: forward and backward pass of "
      "one "
      "micro-batch, predicted\n",
      process.c_str());
  std::printf("  %-10s %9s %9s %9s %9s %9s %9s %9s %9s %6s %9s %7s\n", "strategy", "X", "X A",
              "anchors", "attention", "graphs", "stored", "working", "peak", "again", "seconds",
              "x none");
}

void print_estimate(const PlanEstimate& estimate, double base_seconds) {
  const ActivationCounts& kept = estimate.memory.activations;
  std::printf("  %-10s %9s %9s %9s %9s %9s %9s %9s %9s %5.1f%% %9s %7.3f\n", estimate.name.c_str(),
              bytes(kept.inputs).c_str(), bytes(kept.products).c_str(), bytes(kept.outputs).c_str(),
              bytes(kept.attention).c_str(), bytes(kept.graphs).c_str(),
              bytes(kept.total() - kept.head).c_str(), bytes(estimate.memory.working_set).c_str(),
              bytes(estimate.memory.peak).c_str(), 100 * estimate.recompute_share,
              format("%.4g", estimate.seconds).c_str(), estimate.seconds / base_seconds);
}

void print_accounting(const PlannerInput& input) {
  const InverseAccounting counts = account_for_inverse(input);
  std::printf(
      "  inverse keeps %s. With X A of a low-rank first block too: %s; of that, with q, k, v, gate "
      "and up of the anchors alone, as arXiv 2509.18993 counts: %s\n",
      bytes(counts.kept).c_str(), bytes(counts.all_low).c_str(),
      bytes(counts.as_published).c_str());
}

}  // namespace

void print_recompute(const LoadedConfig<RunConfig>& loaded, const PlanMachine& machine,
                     const std::string& plot) {
  const PlannerInput& input = machine.input;
  std::printf("Recomputation, on %s\n", machine.description.c_str());
  const auto strategies = estimate_strategies(input);
  const auto front = plan_front(input);
  const double base = strategies.front().seconds;
  print_header(input.process_bytes);
  for (const auto& estimate : strategies) print_estimate(estimate, base);
  if (const RecomputeConfig& configured = loaded.config.recompute;
      configured.strategy != RecomputeStrategy::kAuto) {
    print_estimate(estimate_plan(input, make_plan(configured, loaded.config.model), "configured"),
                   base);
  }
  if (loaded.config.model.architecture == Architecture::kCRNet) print_accounting(input);
  std::printf(
      "  Some of the plans that no other beats in memory and time (recompute.strategy auto chooses "
      "among all, and inverts only where nothing exact fits):\n");
  for (const auto& estimate : front) {
    print_estimate(estimate, base);
    std::printf("             %s\n", describe(estimate.plan).c_str());
  }
  if (!plot.empty()) {
    write_plan_svg(plot, strategies, front, "Recomputation: " + loaded.path);
    std::printf("  drawn in %s\n", plot.c_str());
  }
  if (loaded.config.recompute.strategy != RecomputeStrategy::kAuto) return;
  const int64_t budget = machine.budget(/*local_processes=*/1);
  try {
    const PlanEstimate chosen = choose_plan(input, budget);
    std::printf("  auto, within %s:\n", bytes(budget).c_str());
    print_estimate(chosen, base);
    std::printf("             %s\n", describe(chosen.plan).c_str());
  } catch (const UsageError& error) {  // an answer too: crnet train would refuse
    std::printf("  auto cannot: %s\n", error.what());
  }
}

}  // namespace crnet
