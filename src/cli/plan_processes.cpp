#include "cli/plan_processes.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>

#include "crnet/core/error.h"
#include "crnet/core/format.h"
#include "crnet/train/parallel_plan.h"

namespace crnet {
namespace {

constexpr int kMostProcesses = 1000000;
constexpr double kGiga = 1e9, kMicro = 1e-6;

// "8,64" → 8, 64.
std::vector<int> parse_counts(const std::string& text) {
  std::vector<int> counts;
  const char *at = text.data(), *const end = at + text.size();
  while (true) {
    int count = 0;
    const auto [next, problem] = std::from_chars(at, end, count);
    const bool ends = next == end;
    if (problem != std::errc() || count < 1 || count > kMostProcesses || (!ends && *next != ',')) {
      throw UsageError(
          format("[plan] --processes: expected numbers from 1 to %d, with commas "
                 "between them, got %s",
                 kMostProcesses, text.c_str()));
    }
    counts.push_back(count);
    if (ends) return counts;
    at = next + 1;
  }
}

double latency_option(const cxxopts::ParseResult& parsed, const std::string& name) {
  const double value = parsed[name].as<double>();
  if (std::isfinite(value) && value >= 0) return value * kMicro;
  throw UsageError(
      format("[plan] --%s: expected a number of at least 0, got %g", name.c_str(), value));
}

std::string describe(const Network& network, const cxxopts::ParseResult& parsed) {
  const auto said = [&](const char* option, double value, const char* unit) {
    return format("%g%s%s", value, unit, parsed.count(option) == 0 ? " (default)" : "");
  };
  const auto per_node = static_cast<double>(network.per_node);
  return "nodes of " + said("per-node", per_node, "") + "; in a node " +
         said("node-bandwidth", network.node_bandwidth / kGiga, " GB/s") + " each way and " +
         said("node-latency", network.node_latency / kMicro, " us") + " a hop, between nodes " +
         said("network-bandwidth", network.network_bandwidth / kGiga, " GB/s") + " a process and " +
         said("network-latency", network.network_latency / kMicro, " us");
}

std::string bytes(double count) {
  return count <= 0 ? "-" : format_bytes(count);
}

std::string bytes(int64_t count) {
  return bytes(static_cast<double>(count));
}

// "none", "parameters", "parameters/8".
std::string sharing_name(const ParallelPlan& plan) {
  const std::string name = enum_name(plan.shard);
  const bool is_part = plan.shard != Sharding::kNone && plan.shard_size < plan.num_processes;
  return is_part ? name + "/" + std::to_string(plan.shard_size) : name;
}

void print_header() {
  std::printf(
      "  memory of a process: weights computed with, where the fp32 masters are others; AdamW's "
      "moments; gradients, with buckets and sums;\n"
      "  buffers in which weights and gradients travel; activations kept and worked with; peak: "
      "most at one moment. again: FLOPs done again.\n"
      "  sent: by a process in a step; travels: seconds in which something does, waits: in which "
      "nothing else happens; efficiency: of the same\n"
      "  work without communication\n");
  std::printf("  %9s %-15s %9s %9s %9s %9s %9s %9s %9s %4s %6s %9s %8s %8s %8s %10s %10s\n",
              "processes", "dist.shard", "weights", "masters", "moments", "gradients", "buffers",
              "activ.", "peak", "fits", "again", "sent", "travels", "waits", "step, s", "tokens/s",
              "efficiency");
}

void print_plan(const ParallelPlan& plan) {
  const MemoryCounts& memory = plan.recompute.memory;
  std::printf(
      "  %9d %-15s %9s %9s %9s %9s %9s %9s %9s %4s %5.1f%% %9s %8s %8s %8s %10s %9.1f%%\n",
      plan.num_processes, sharing_name(plan).c_str(),
      bytes(plan.state.weights + memory.weight_copies).c_str(), bytes(plan.state.masters).c_str(),
      bytes(plan.state.moments).c_str(), bytes(memory.gradients).c_str(),
      bytes(memory.buffers).c_str(), bytes(memory.activations.total() + memory.working_set).c_str(),
      bytes(memory.peak).c_str(), plan.fits ? "yes" : "no", 100 * plan.recompute.recompute_share,
      bytes(plan.bytes_sent).c_str(), format("%.3g", plan.communication).c_str(),
      format("%.3g", plan.exposed).c_str(), format("%.4g", plan.seconds).c_str(),
      format_count(plan.tokens_per_second).c_str(), 100 * plan.efficiency);
}

}  // namespace

void add_process_options(cxxopts::Options& options) {
  const Network usual;
  const auto number = [](double value) {
    return cxxopts::value<double>()->default_value(format("%g", value));
  };
  options.add_options()("processes",
                        "also memory, traffic and speed with so many processes: N[,N...]",
                        cxxopts::value<std::string>())(
      "per-node", "processes of a node",
      cxxopts::value<int64_t>()->default_value(std::to_string(usual.per_node)))(
      "node-bandwidth", "GB/s of a process to others of its node, each way",
      number(usual.node_bandwidth / kGiga))("network-bandwidth",
                                            "GB/s of a process to other nodes, each way",
                                            number(usual.network_bandwidth / kGiga))(
      "node-latency", "microseconds of a hop in a node", number(usual.node_latency / kMicro))(
      "network-latency", "microseconds of a hop between nodes",
      number(usual.network_latency / kMicro));
}

ProcessOptions::ProcessOptions(const cxxopts::ParseResult& parsed) {
  if (parsed.count("processes") != 0) counts = parse_counts(parsed["processes"].as<std::string>());
  network.per_node = parsed["per-node"].as<int64_t>();
  if (network.per_node < 1) {
    throw UsageError(format("[plan] --per-node: expected at least 1, got %ld",
                            static_cast<long>(network.per_node)));
  }
  network.node_bandwidth = kGiga * positive_option(parsed, "node-bandwidth");
  network.network_bandwidth = kGiga * positive_option(parsed, "network-bandwidth");
  network.node_latency = latency_option(parsed, "node-latency");
  network.network_latency = latency_option(parsed, "network-latency");
  description = describe(network, parsed);
}

void print_processes(const LoadedConfig<RunConfig>& loaded, const PlanMachine& machine,
                     const ProcessOptions& options) {
  if (options.counts.empty()) return;
  std::vector<ParallelPlan> plans;
  int64_t budget = 0;
  for (const int count : options.counts) {
    const auto local = static_cast<int>(std::min<int64_t>(count, options.network.per_node));
    budget = machine.budget(local);
    for (const auto& plan : plan_processes(loaded, machine.input, options.network, count, budget)) {
      plans.push_back(plan);
    }
  }
  const RunConfig& config = loaded.config;
  std::printf("Processes, predicted: %s\n", options.description.c_str());
  std::printf("  each with micro-batches of %ld x %ld tokens, gradients in %s, and %s of memory\n",
              static_cast<long>(config.train.micro_batch),
              static_cast<long>(config.data.sequence_length), enum_name(config.dist.gradients),
              bytes(budget).c_str());
  print_header();
  for (const auto& plan : plans) print_plan(plan);
}

}  // namespace crnet
