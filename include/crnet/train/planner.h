// What the strategies of recomputation cost a run, and the cheapest that fits into its memory.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "crnet/model/memory.h"
#include "crnet/train/machine_rates.h"
#include "crnet/train/run_config.h"

namespace crnet {

/// A plan and what it is expected to cost.
struct PlanEstimate {
  std::string name;  ///< a strategy's, or "auto"
  RecomputePlan plan;
  MemoryCounts memory;
  double recompute_share = 0;  ///< FLOPs done again, as a part of the step's without them
  double seconds = 0;          ///< forward and backward pass of one micro-batch
};

/// Everything that a plan's cost depends on.
struct PlannerInput {
  RunConfig config;
  bool bf16 = true;
  MachineRates rates;
  torch::Device device = torch::kCPU;  ///< attention's results can be kept on a CPU only
  int64_t process_bytes = 0;           ///< what the process holds already; added to every peak
  int num_processes = 1;               ///< that share the work, as config.dist says
};

[[nodiscard]] PlanEstimate estimate_plan(const PlannerInput& input, RecomputePlan plan,
                                         std::string name);

/// The strategies that the architecture has, as they are without options, "none" first.
[[nodiscard]] std::vector<PlanEstimate> estimate_strategies(const PlannerInput& input);

/// The plans that no other beats in both peak memory and time, least memory first, at most
/// `count` of them. Plans differ in how many blocks, from the top, keep their graphs (those are
/// needed first and go first), how the others are rebuilt, from how many anchors, and how many of
/// them, from the top, keep attention's results. Those that invert by more than
/// recompute.max_amplification at the initial β are left out.
[[nodiscard]] std::vector<PlanEstimate> plan_front(const PlannerInput& input, size_t count = 12);

/// The fastest plan whose peak is at most `budget` bytes; one that inverts only where no exact one
/// fits. Throws UsageError ("recompute.memory_budget: expected …") that says what would fit.
[[nodiscard]] PlanEstimate choose_plan(const PlannerInput& input, int64_t budget);
/// The same, but for the plan of the least peak where none fits.
[[nodiscard]] PlanEstimate nearest_plan(const PlannerInput& input, int64_t budget);

/// What inversion stores of X, X A and anchors under the configured model and batch, in bytes.
struct InverseAccounting {
  int64_t kept = 0;          ///< as crnet keeps it
  int64_t all_low = 0;       ///< if block 1 were low rank, and so had an X A too
  int64_t as_published = 0;  ///< of that, the anchors' q, k, v, gate and up alone: arXiv 2509.18993
};
[[nodiscard]] InverseAccounting account_for_inverse(const PlannerInput& input);

/// Of a device's free memory, what "fit" takes: LibTorch's kernels want some for themselves.
inline constexpr double kShareOfFree = 0.95;

/// recompute.memory_budget in bytes; "fit" is 95 % of what the device has free now (on a CPU: what
/// Linux says is available, or what is left of the container's limit, divided by the processes on
/// it) and what the process holds.
[[nodiscard]] int64_t resolve_memory_budget(const std::string& budget, torch::Device device,
                                            int local_processes = 1);

/// What this process holds on the device before a model is made: on a CPU its resident memory, most
/// of it LibTorch's libraries, once freed memory has been handed back; 0 on a GPU, of whose memory
/// LibTorch counts tensors alone.
[[nodiscard]] int64_t process_bytes(torch::Device device);

}  // namespace crnet
