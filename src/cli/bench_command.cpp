// crnet bench: how fast a training step is on this machine, and against what it cannot avoid.
#include <torch/version.h>

#include <cstdio>
#include <map>

#include "cli/commands.h"
#include "crnet/core/error.h"
#include "crnet/core/format.h"
#include "crnet/model/costs.h"
#include "crnet/train/bench.h"

namespace crnet {
namespace {

constexpr double kLeastShare = 0.005;  // of a step: operators below it share one line

cxxopts::Options bench_options() {
  cxxopts::Options options(
      "crnet bench",
      "Measures a training step on this machine, on random tokens, and where its time goes.");
  options.add_options()("config", "recipe or model file, YAML or JSON",
                        cxxopts::value<std::string>())(
      "floor",
      "also time the step's bare matrix products and attention by LibTorch, in turn with it")(
      "rounds", "how many steps are timed", cxxopts::value<int64_t>()->default_value("5"))(
      "set", "override: key=value (may be repeated)", cxxopts::value<std::string>())("h,help",
                                                                                     "this text");
  options.parse_positional({"config"});
  options.custom_help("CONFIG [--floor] [--rounds N] [--set key=value ...]").positional_help("");
  return options;
}

void print_setting(const RunConfig& config, const BenchReport& report, int64_t rounds) {
  std::printf("%s with %s parameters, %ld x %ld tokens, recomputation: %s\n",
              enum_name(config.model.architecture),
              format_count(static_cast<double>(count_parameters(config.model).total())).c_str(),
              static_cast<long>(config.train.micro_batch),
              static_cast<long>(config.data.sequence_length), report.recompute.c_str());
  std::printf("%s; LibTorch %s; %ld round%s\n", describe(report.runtime).c_str(), TORCH_VERSION,
              static_cast<long>(rounds), rounds == 1 ? "" : "s");
}

void row(const char* name, const Spread& spread, const std::string& note) {
  std::printf("  %-14s %10.1f  [%.1f-%.1f]  %s\n", name, spread.median, spread.least, spread.most,
              note.c_str());
}

void print_step(const BenchReport& report) {
  std::printf("\nMedian [least-most]; ms where nothing else is said\n");
  const double per_second = 1e3 / report.step.median, rate = report.flops * per_second;
  row("step", report.step, "forward, backward, clipping, AdamW");
  std::printf("  %-14s %10.1f\n", "tokens/s", static_cast<double>(report.tokens) * per_second);
  std::printf("  %-14s %10.4g  %.0f %% of the %.4g of large products\n", "TFLOP/s", rate / 1e12,
              100 * rate / report.peak_flops, report.peak_flops / 1e12);
  if (report.peak_bytes > 0) {
    std::printf("  %-14s %10s  %s\n", "memory",
                format_bytes(static_cast<double>(report.peak_bytes)).c_str(),
                report.runtime.device.is_cpu() ? "at most, of the whole process"
                                               : "at most, on the device");
  }
}

void print_floor(const FloorTimes& floor, double flops) {
  row("floor", floor.both,
      format("%sFLOP, %sFLOP/s", format_count(flops).c_str(),
             format_count(flops / floor.both.median * 1e3).c_str()));
  row("  products", floor.products,
      format("%ld products by LibTorch's mm, into memory that is there",
             static_cast<long>(floor.num_products)));
  const char* names[] = {"unfused", "fused"};
  std::string attention =
      format("%ld forward and backward by LibTorch's scaled_dot_product_attention, %s",
             static_cast<long>(floor.num_attentions), names[floor.attention_is_fused]);
  if (floor.other_attention.median > 0) {
    attention +=
        format(" (%s: %.1f)", names[!floor.attention_is_fused], floor.other_attention.median);
  }
  row("  attention", floor.attention, attention);
  std::printf(
      "  %-14s %10.3f  [%.3f-%.3f]  step over floor, round by round; below 1: faster than "
      "LibTorch's alone\n",
      "floor ratio", floor.ratio.median, floor.ratio.least, floor.ratio.most);
}

void print_operators(const OperatorGroup& group, double step) {
  OperatorTime rest{"others", 0, 0};
  const auto print = [&](const OperatorTime& time) {
    std::printf("    %-52.52s %8.1f %6.1f %8.5g\n", time.name.c_str(), time.milliseconds,
                100 * time.milliseconds / step, time.calls);
  };
  for (const auto& time : group.operators) {
    if (time.milliseconds >= kLeastShare * step) {
      print(time);
    } else {
      rest.milliseconds += time.milliseconds;
      rest.calls += time.calls;
    }
  }
  if (rest.calls > 0) print(rest);
}

void print_breakdown(const BenchReport& report) {
  if (report.breakdown.empty()) return;
  double step = 0;
  for (const auto& group : report.breakdown) step += group.milliseconds;
  std::map<std::string, double> floor;
  if (report.floor) {
    floor = {{"matrix products", report.floor->products.median},
             {"attention", report.floor->attention.median}};
  }
  std::printf("\nWhere a step's time goes, profiled over %ld steps: %s\n",
              static_cast<long>(report.profiled_steps),
              report.runtime.device.is_cpu() ? "each operator without those that it calls"
                                             : "the device's kernels");
  std::printf("  %-54s %8s %6s %8s%s\n", "", "ms", "%", "calls", report.floor ? "    floor" : "");
  for (const auto& group : report.breakdown) {
    std::printf("  %-54s %8.1f %6.1f", group.name.c_str(), group.milliseconds,
                100 * group.milliseconds / step);
    if (const auto in_floor = floor.find(group.name); in_floor != floor.end()) {
      std::printf(" %17.1f", in_floor->second);
    }
    std::printf("\n");
    print_operators(group, step);
  }
  std::printf("  %-54s %8.1f %6.1f\n", "step", step, 100.0);
}

}  // namespace

int run_bench(int argc, char** argv) {
  auto options = bench_options();
  const auto parsed = parse_arguments(options, argc, argv);
  if (parsed.count("help") != 0) {
    std::printf("%s", options.help().c_str());
    return 0;
  }
  keep_freed_memory();
  keep_profiler_quiet();
  const auto loaded = load_run_config(required(parsed, "config", "bench", "a recipe or model file"),
                                      overrides_in(parsed));
  const BenchOptions bench{.rounds = parsed["rounds"].as<int64_t>(),
                           .floor = parsed["floor"].as<bool>()};
  const BenchReport report = measure_training_step(loaded, bench);
  print_setting(loaded.config, report, bench.rounds);
  print_step(report);
  if (report.floor) print_floor(*report.floor, report.flops);
  print_breakdown(report);
  return 0;
}

}  // namespace crnet
