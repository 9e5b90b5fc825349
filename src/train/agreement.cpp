#include "train/agreement.h"

#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "config/json.h"
#include "crnet/core/error.h"
#include "crnet/core/format.h"
#include "crnet/core/log.h"
#include "crnet/dist/data_parallel.h"

namespace crnet {

namespace {

// Nothing, and why, where any process finds its part of the files damaged.
std::optional<Checkpoint> open_together(Group& group, const std::string& folder,
                                        std::string& failure) {
  std::optional<Checkpoint> checkpoint;
  std::string own;
  try {
    checkpoint = open_checkpoint(folder, group.rank(), group.size());
  } catch (const Error& error) {
    own = error.what();
  }
  for (const auto& found : group.gather(own, "the checkpoint's files")) {
    if (failure.empty()) failure = found;
  }
  return failure.empty() ? std::move(checkpoint) : std::nullopt;
}

}  // namespace

void agree_on_settings(Group& group, const RunConfig& config, const Runtime& runtime) {
  std::vector<std::pair<std::string, std::string>> settings;
  const auto flat = nlohmann::json(to_json(config)).flatten();
  for (const auto& [path, value] : flat.items()) {
    std::string key = path.substr(1);
    std::replace(key.begin(), key.end(), '/', '.');
    settings.emplace_back(key, value.dump());
  }
  settings.emplace_back("precision, as resolved,", dtype_name(runtime.compute_dtype));
  settings.emplace_back("kind of device", runtime.device.is_cuda() ? "cuda" : "cpu");
  group.expect_same(settings);
}

RunStart agree_on_start(Group& group, const RunFolder& folder, const std::string& resume,
                        const DataIndex& data, CheckpointStore& store, detail::Descriptor& lock) {
  group.expect_same({{"data", data.content_hash()}, {"--resume", resume}});
  const auto found = group.together("find where to start", [&]() -> std::vector<std::string> {
    if (!group.is_first()) return {};
    lock = folder.lock_if_there();
    return find_candidates(folder, resume, store);
  });
  const auto candidates =
      nlohmann::json::parse(group.gather(nlohmann::json(found).dump(), "the start")[0]);
  RunStart start;
  for (const std::string candidate : candidates) {
    std::string failure;
    start.checkpoint = open_together(group, candidate, failure);
    if (start.checkpoint) return start;
    if (resume != "auto") throw Error(failure);
    store.refuse(candidate);
    start.refusals.push_back("refused the checkpoint " +
                             std::filesystem::path(candidate).filename().string() + ": " + failure);
  }
  if (candidates.empty()) return start;
  if (group.is_first()) {
    for (const auto& line : start.refusals) log::warn(line);
  }
  throw Error("[train] --resume auto: expected a sound checkpoint in " +
              folder.checkpoints().string() + ", got none; start anew in another train.run_dir");
}

RunPlan agree_on_plan(Group& group, const LoadedConfig<RunConfig>& loaded, const Runtime& runtime,
                      const std::optional<Checkpoint>& start,
                      const std::optional<RecomputePlan>& given) {
  RunPlan plan = group.together("plan", [&]() -> RunPlan {
    return group.is_first() ? find_plan(loaded, runtime, group.launch(), start, given) : RunPlan{};
  });
  if (group.size() == 1) return plan;
  const auto agreed = group.gather(plan_to_json(plan.plan).dump(), "the plan")[0];
  plan.plan = plan_from_json(nlohmann::json::parse(agreed));
  return plan;
}

}  // namespace crnet
