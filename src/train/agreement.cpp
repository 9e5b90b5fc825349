#include "train/agreement.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "config/json.h"
#include "crnet/core/error.h"
#include "crnet/core/format.h"

namespace crnet {

void check_batch_for(const LoadedConfig<RunConfig>& loaded, int num_processes) {
  const RunConfig& config = loaded.config;
  const int64_t at_once = config.micro_batch_tokens() * num_processes;
  if (config.train.global_batch_tokens % at_once == 0) return;
  throw UsageError(loaded.problem(
      "train.global_batch_tokens",
      format("expected 0 or a multiple of train.micro_batch * data.sequence_length * processes "
             "(%ld * %ld * %d = %ld), got %ld",
             static_cast<long>(config.train.micro_batch),
             static_cast<long>(config.data.sequence_length), num_processes,
             static_cast<long>(at_once), static_cast<long>(config.train.global_batch_tokens))));
}

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
  RunStart start = group.together("find where to start", [&]() -> RunStart {
    if (!group.is_first()) return {};
    lock = folder.lock_if_there();
    return find_start(folder, resume, store);
  });
  const std::string chosen =
      group.gather(start.checkpoint ? start.checkpoint->folder.string() : "", "the start")[0];
  return group.together("open the checkpoint", [&] {
    if (!group.is_first() && !chosen.empty()) start.checkpoint = open_checkpoint(chosen);
    return std::move(start);
  });
}

RunPlan agree_on_plan(Group& group, const LoadedConfig<RunConfig>& loaded, const Runtime& runtime,
                      const std::optional<Checkpoint>& start) {
  RunPlan plan = group.together("plan", [&]() -> RunPlan {
    return group.is_first() ? find_plan(loaded, runtime, start) : RunPlan{};
  });
  if (group.size() == 1) return plan;
  const auto agreed = group.gather(plan_to_json(plan.plan).dump(), "the plan")[0];
  plan.plan = plan_from_json(nlohmann::json::parse(agreed));
  return plan;
}

}  // namespace crnet
