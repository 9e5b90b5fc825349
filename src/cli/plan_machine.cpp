#include "cli/plan_machine.h"

#include <cmath>

#include "crnet/core/error.h"
#include "crnet/core/format.h"
#include "crnet/train/device.h"

namespace crnet {
namespace {

constexpr double kTera = 1e12, kGiga = 1e9, kGiB = 0x1p30;

PlanMachine given_machine(const PlannerInput& input, const cxxopts::ParseResult& parsed) {
  PlanMachine machine{input, "", 0};
  const double flops = positive_option(parsed, "device-flops"),
               bandwidth = positive_option(parsed, "device-bandwidth"),
               memory = positive_option(parsed, "device-memory");
  const double rate = kTera * flops;
  machine.input.rates = {rate, rate, rate, rate, kGiga * bandwidth};
  machine.input.device = torch::kCUDA;
  machine.device_bytes = static_cast<int64_t>(kGiB * memory);
  machine.description =
      format("GPUs that do %g TFLOP/s and move %g GB/s, with %g GiB%s", flops, bandwidth, memory,
             parsed.count("device-memory") == 0 ? " (default)" : "");
  return machine;
}

PlanMachine measured_machine(PlannerInput input) {
  Runtime runtime = select_runtime(input.config.train);
  runtime.compute_dtype = input.bf16 ? torch::kBFloat16 : torch::kFloat32;
  const auto rate = [](double value) { return format_count(value); };
  input.rates =
      measure_machine_rates(runtime, input.config.model, input.config.data.sequence_length);
  input.device = runtime.device;
  input.process_bytes = process_bytes(runtime.device);
  const MachineRates& rates = input.rates;
  return {input,
          format("%s: %sFLOP/s wide products, %s low-rank, %s attention, %s its backward; "
                 "%sB/s memory, as measured now",
                 describe(runtime).c_str(), rate(rates.products).c_str(),
                 rate(rates.low_rank_products).c_str(), rate(rates.attention_forward).c_str(),
                 rate(rates.attention_backward).c_str(), rate(rates.memory).c_str())};
}

}  // namespace

int64_t PlanMachine::budget(int local_processes) const {
  const std::string& asked = input.config.recompute.memory_budget;
  if (device_bytes == 0) return resolve_memory_budget(asked, input.device, local_processes);
  const int64_t bytes = parse_memory_budget(asked);
  return bytes > 0 ? bytes : static_cast<int64_t>(kShareOfFree * static_cast<double>(device_bytes));
}

void add_machine_options(cxxopts::Options& options) {
  options.add_options()("device-flops", "TFLOP/s that a device does, for another machine than this",
                        cxxopts::value<double>())(
      "device-bandwidth", "with it: GB/s that its memory moves", cxxopts::value<double>())(
      "device-memory", "with it: its memory, GiB", cxxopts::value<double>()->default_value("79"));
}

void check_machine_options(const cxxopts::ParseResult& parsed) {
  const bool has_flops = parsed.count("device-flops") != 0;
  for (const char* name : {"device-bandwidth", "device-memory"}) {
    if (!has_flops && parsed.count(name) != 0) {
      throw UsageError(format("[plan] --%s: expected --device-flops with it, got none", name));
    }
  }
  if (!has_flops) return;
  if (parsed.count("device-bandwidth") == 0) {
    throw UsageError("[plan] --device-flops: expected --device-bandwidth with it, got none");
  }
  for (const char* name : {"device-flops", "device-bandwidth", "device-memory"}) {
    static_cast<void>(positive_option(parsed, name));
  }
}

PlanMachine plan_machine(const RunConfig& config, const cxxopts::ParseResult& parsed) {
  // Precision auto is reckoned as bf16, as in the table of memory: the run may be on another
  // machine.
  PlannerInput input;
  input.config = config;
  input.bf16 = config.train.precision != PrecisionChoice::kFp32;
  return parsed.count("device-flops") == 0 ? measured_machine(std::move(input))
                                           : given_machine(input, parsed);
}

double positive_option(const cxxopts::ParseResult& parsed, const std::string& name) {
  const double value = parsed[name].as<double>();
  if (std::isfinite(value) && value > 0) return value;
  throw UsageError(format("[plan] --%s: expected a number above 0, got %g", name.c_str(), value));
}

}  // namespace crnet
