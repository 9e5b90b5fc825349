// The part of `crnet plan` that compares ways to keep activations.
#pragma once

#include <string>

#include "cli/plan_machine.h"
#include "crnet/config/load.h"

namespace crnet {

/// Prints every strategy and the plans between them, and what strategy auto would choose; draws
/// them into `plot` unless it is empty. Where nothing meets recompute.memory_budget, what would.
void print_recompute(const LoadedConfig<RunConfig>& loaded, const PlanMachine& machine,
                     const std::string& plot);

}  // namespace crnet
