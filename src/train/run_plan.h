// Which plan of recomputation a run follows, and how a checkpoint remembers it.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "crnet/config/load.h"
#include "crnet/recompute/plan.h"
#include "crnet/train/checkpoint.h"
#include "crnet/train/device.h"
#include "crnet/train/run_config.h"

namespace crnet {

struct RunPlan {
  RecomputePlan plan;
  std::string note;  ///< a line for the log where the planner has chosen, else empty
};

/// The plan of the configured strategy. Under strategy auto that of the checkpoint, if it was made
/// with the same settings and as many processes: measured anew, another plan might round
/// differently. Else `given`, or what the planner chooses now. Throws UsageError where
/// recompute.memory_budget cannot be met.
RunPlan find_plan(const LoadedConfig<RunConfig>& loaded, const Runtime& runtime,
                  const Launch& launch, const std::optional<Checkpoint>& start,
                  const std::optional<RecomputePlan>& given);

nlohmann::json plan_to_json(const RecomputePlan& plan);
/// Throws nlohmann::json::exception where `json` is not what plan_to_json gives.
RecomputePlan plan_from_json(const nlohmann::json& json);

}  // namespace crnet
