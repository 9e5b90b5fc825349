// crnet plan: what a configuration costs, before it is run.
#include <cstdio>
#include <filesystem>

#include "cli/commands.h"
#include "cli/plan_machine.h"
#include "cli/plan_processes.h"
#include "cli/plan_recompute.h"
#include "crnet/core/error.h"
#include "crnet/core/format.h"
#include "crnet/model/causal_lm.h"
#include "crnet/model/costs.h"
#include "crnet/model/memory.h"
#include "crnet/train/parallel_plan.h"
#include "crnet/train/run_config.h"

namespace crnet {
namespace {

cxxopts::Options plan_options() {
  cxxopts::Options options("crnet plan", "Parameters, FLOPs and memory of a configuration.");
  options.add_options()("config", "recipe or model file, YAML or JSON",
                        cxxopts::value<std::string>())(
      "set", "override: key=value (may be repeated)", cxxopts::value<std::string>())(
      "hours", "also print the speed that finishes the run in this time", cxxopts::value<double>())(
      "plot", "draw memory and time of the plans of recomputation into this file (SVG)",
      cxxopts::value<std::string>()->default_value(""));
  add_process_options(options);
  add_machine_options(options);
  options.add_options()("h,help", "this text");
  options.parse_positional({"config"});
  options
      .custom_help("CONFIG [--set key=value ...] [--hours H] [--plot FILE] [--processes N[,N...]]")
      .positional_help("");
  return options;
}

void row(const char* name, const std::string& value, const std::string& note = "") {
  std::printf("  %-28s %12s  %s\n", name, value.c_str(), note.c_str());
}

void print_parameters(const ModelConfig& model) {
  const ParameterCounts counts = count_parameters(model);
  const auto count = [](int64_t n) { return format_count(static_cast<double>(n)); };
  std::printf("Parameters\n");
  row("embedding", count(counts.embedding));
  row("head", count(counts.head), model.tie_embeddings ? "tied to the embedding" : "");
  row("first block", count(counts.first_block));
  row("later blocks", count(counts.later_blocks));
  row("norms", count(counts.norms));
  const int64_t dense = count_parameters(dense_equivalent(model)).total();
  row("total", count(counts.total()),
      format("%ld, %.2fx of full rank", static_cast<long>(counts.total()),
             static_cast<double>(counts.total()) / static_cast<double>(dense)));
}

void print_flops(const RunConfig& config) {
  const int64_t T = config.data.sequence_length;
  const FlopCounts flops = count_flops(config.model, T);
  const FlopCounts dense = count_flops(dense_equivalent(config.model), T);
  std::printf("FLOPs per token at sequence length %ld (matrix products, 2 per multiply-add)\n",
              static_cast<long>(T));
  row("projections, forward", format_count(flops.projections),
      format("%.2fx of full rank", flops.projections / dense.projections));
  row("attention, forward", format_count(flops.attention));
  row("head, forward", format_count(flops.head));
  row("training step", format_count(flops.training()),
      format("%.2fx of full rank", flops.training() / dense.training()));
}

void print_memory(const PlannerInput& input) {
  const RunConfig& config = input.config;
  const StepShape shape{.batch = config.train.micro_batch,
                        .sequence_length = config.data.sequence_length,
                        .bf16 = input.bf16,
                        .recompute = make_plan(config.recompute, config.model),
                        .accumulates = config.accumulation_steps() > 1,
                        .on_cpu = input.device.is_cpu()};
  const MemoryCounts memory = count_memory(config.model, shape);
  const auto bytes = [](int64_t n) { return format_bytes(static_cast<double>(n)); };
  std::printf("Memory for micro-batches of %ld x %ld tokens in %s\n",
              static_cast<long>(shape.batch), static_cast<long>(shape.sequence_length),
              shape.bf16 ? "bf16" : "fp32");
  row("weights", bytes(memory.weights), "fp32");
  row("gradients", bytes(memory.gradients), "fp32");
  row("optimizer", bytes(memory.optimizer), "two fp32 moments");
  row("bf16 copies of weights", bytes(memory.weight_copies));
  row("activations", bytes(memory.activations.total()),
      config.recompute.strategy == RecomputeStrategy::kAuto
          ? "with everything kept; for what auto chooses see below"
          : "kept for the backward pass");
  row("working set", bytes(memory.working_set), "of the block that is differentiated");
  row("head's gradient", bytes(memory.head_gradient), "made in the forward pass");
  row("logits of one chunk", bytes(memory.logits_chunk), "for a moment");
  row("peak", bytes(memory.peak),
      "estimated, of tensors, at the moment that has most of them; the process itself is on top");
}

void print_run(const RunConfig& config, const cxxopts::ParseResult& parsed) {
  const auto step_tokens =
      static_cast<double>(config.accumulation_steps() * config.micro_batch_tokens());
  const double tokens = step_tokens * static_cast<double>(config.train.steps);
  const double flops = tokens * count_flops(config.model, config.data.sequence_length).training();
  std::printf("The run\n");
  row("tokens per step", format_count(step_tokens));
  row("tokens in all", format_count(tokens),
      format("%ld step%s", static_cast<long>(config.train.steps),
             config.train.steps == 1 ? "" : "s"));
  row("FLOPs in all", format("%.3g", flops));
  if (parsed.count("hours") == 0) return;
  const double hours = parsed["hours"].as<double>();
  const double rate = tokens / (hours * 3600);
  row(format("in %g hours", hours).c_str(), format_count(rate) + " tok/s",
      format("%s FLOP/s sustained", format_count(flops / (hours * 3600)).c_str()));
}

}  // namespace

int run_plan(int argc, char** argv) {
  auto options = plan_options();
  const auto parsed = parse_arguments(options, argc, argv);
  if (parsed.count("help") != 0) {
    std::printf("%s", options.help().c_str());
    return 0;
  }
  const auto loaded = load_run_config(required(parsed, "config", "plan", "a recipe or model file"),
                                      overrides_in(parsed));
  if (parsed.count("hours") != 0 && !(parsed["hours"].as<double>() > 0)) {
    throw UsageError(
        format("[plan] expected --hours above 0, got %g", parsed["hours"].as<double>()));
  }
  const std::filesystem::path plot = parsed["plot"].as<std::string>();
  if (const auto folder = plot.parent_path();
      !folder.empty() && !std::filesystem::is_directory(folder)) {
    throw UsageError("[plan] --plot: expected a file in a folder that exists, got " +
                     plot.string());
  }
  check_machine_options(parsed);
  const ProcessOptions processes(parsed);
  for (const int count : processes.counts) check_plannable(loaded, processes.network, count);
  const PlanMachine machine = plan_machine(loaded.config, parsed);
  print_parameters(loaded.config.model);
  print_flops(loaded.config);
  print_memory(machine.input);
  print_run(loaded.config, parsed);
  print_recompute(loaded, machine, plot.string());
  print_processes(loaded, machine, processes);
  return 0;
}

}  // namespace crnet
