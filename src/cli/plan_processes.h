// The part of `crnet plan` about several processes.
#pragma once

#include <cxxopts.hpp>
#include <vector>

#include "cli/plan_machine.h"
#include "crnet/config/load.h"
#include "crnet/train/network.h"

namespace crnet {

/// Adds --processes, and what describes the network between them.
void add_process_options(cxxopts::Options& options);

/// What these options say. Throws UsageError where they are no counts or speeds.
struct ProcessOptions {
  explicit ProcessOptions(const cxxopts::ParseResult& parsed);
  std::vector<int> counts;  ///< none: nothing to plan
  Network network;
  std::string description;  ///< of the network, and what is a default
};

/// Prints a table with a line for each number of processes and each way to share.
void print_processes(const LoadedConfig<RunConfig>& loaded, const PlanMachine& machine,
                     const ProcessOptions& options);

}  // namespace crnet
