// What the processes of a run settle before its first step.
#pragma once

#include <string>

#include "crnet/config/load.h"
#include "crnet/data/dataset.h"
#include "crnet/dist/group.h"
#include "crnet/train/device.h"
#include "crnet/train/run_config.h"
#include "train/run_folder.h"
#include "train/run_plan.h"
#include "train/run_start.h"

namespace crnet {

/// Throws UsageError where a setting, or what it resolves to, is not the same on all processes.
void agree_on_settings(Group& group, const RunConfig& config, const Runtime& runtime);

/// The first process holds the folder, in `lock`, and finds the candidates; all check the files of
/// each together, a part on every process, until one is sound. Throws what find_candidates()
/// throws, UsageError where data or `resume` differ, and Error where no candidate is sound (the
/// refusals are logged then).
RunStart agree_on_start(Group& group, const RunFolder& folder, const std::string& resume,
                        const DataIndex& data, CheckpointStore& store, detail::Descriptor& lock);

/// The first process's, since measured rates decide it; see find_plan().
RunPlan agree_on_plan(Group& group, const LoadedConfig<RunConfig>& loaded, const Runtime& runtime,
                      const std::optional<Checkpoint>& start,
                      const std::optional<RecomputePlan>& given);

}  // namespace crnet
