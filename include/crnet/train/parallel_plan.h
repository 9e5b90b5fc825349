// What a run on several processes should need and how it should scale, before it is run.
#pragma once

#include <cstdint>
#include <vector>

#include "crnet/config/load.h"
#include "crnet/train/network.h"
#include "crnet/train/planner.h"

namespace crnet {

/// Of each process, and of a step. docs/scaling.md has the formulas.
struct ParallelPlan {
  int num_processes = 1;
  Sharding shard = Sharding::kNone;
  int64_t shard_size = 1;         ///< processes that share one copy of what is split
  int64_t num_micro_batches = 1;  ///< of each process
  StateMemory state;
  PlanEstimate recompute;    ///< the plan of recomputation, with its memory
  bool fits = false;         ///< whether the peak is within the budget
  double bytes_sent = 0;     ///< by each process
  double communication = 0;  ///< seconds in which something travels
  double exposed = 0;        ///< of these, those in which nothing is computed
  double seconds = 0;
  double tokens_per_second = 0;  ///< of all processes
  /// tokens_per_second over that of as many processes that do the same work, the whole update
  /// included, and have nothing to say to each other.
  double efficiency = 0;
};

/// Throws UsageError, with the place of the key, where so many processes, at least 1, cannot share
/// a global batch, or the parameters.
void check_processes(const LoadedConfig<RunConfig>& loaded, int num_processes);

/// Throws UsageError where so many processes cannot share a batch, or parameters, or do not fill
/// their nodes.
void check_plannable(const LoadedConfig<RunConfig>& loaded, const Network& network,
                     int num_processes);

/// The plans for so many processes: with everything in each of them, with the optimizer's state
/// split, and with all parameters split; that also within dist.shard_group processes, or within a
/// node where that is 0. `input` has the rates and the device; its num_processes and config.dist's
/// shard are not looked at. `budget`: bytes of a process, as choose_plan's. Throws what
/// check_plannable() throws.
[[nodiscard]] std::vector<ParallelPlan> plan_processes(const LoadedConfig<RunConfig>& loaded,
                                                       const PlannerInput& input,
                                                       const Network& network, int num_processes,
                                                       int64_t budget);

}  // namespace crnet
