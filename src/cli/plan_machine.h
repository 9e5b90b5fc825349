// The machine that `crnet plan` is for: this one, or one whose speed is given.
#pragma once

#include <cxxopts.hpp>
#include <string>

#include "crnet/train/planner.h"

namespace crnet {

struct PlanMachine {
  PlannerInput input;        ///< of one process
  std::string description;   ///< with its rates
  int64_t device_bytes = 0;  ///< memory of a given device; 0: this machine's

  /// Bytes that recompute.memory_budget allows each of the processes on one host.
  [[nodiscard]] int64_t budget(int local_processes) const;
};

/// Adds --device-flops, --device-bandwidth and --device-memory.
void add_machine_options(cxxopts::Options& options);

/// Throws UsageError where the options are no rates.
void check_machine_options(const cxxopts::ParseResult& parsed);

/// The GPU that the options describe; without them this machine, which is measured now.
[[nodiscard]] PlanMachine plan_machine(const RunConfig& config, const cxxopts::ParseResult& parsed);

/// A number above 0, else throws UsageError that names the option.
double positive_option(const cxxopts::ParseResult& parsed, const std::string& name);

}  // namespace crnet
