#include "train/agreement.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "config/json.h"
#include "crnet/core/error.h"
#include "crnet/core/format.h"
#include "crnet/core/log.h"
#include "crnet/dist/data_parallel.h"
#include "crnet/train/trainer.h"

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

// Of a global batch that so many processes cannot share: the largest micro-batch with which they
// can, else the nearest batch that they can.
std::string how_to_share(const RunConfig& config, int num_processes) {
  const int64_t sequence_of_each = config.data.sequence_length * num_processes;
  const int64_t global = config.train.global_batch_tokens;
  for (int64_t micro = config.train.micro_batch; micro >= 1; --micro) {
    if (global % (micro * sequence_of_each) == 0) {
      return format("--set train.micro_batch=%ld", static_cast<long>(micro));
    }
  }
  const int64_t at_once = config.train.micro_batch * sequence_of_each;
  const int64_t nearest = std::max(at_once, (global + at_once / 2) / at_once * at_once);
  return format("--set train.global_batch_tokens=%ld", static_cast<long>(nearest));
}

}  // namespace

void check_processes(const LoadedConfig<RunConfig>& loaded, int num_processes) {
  const RunConfig& config = loaded.config;
  const int64_t shard_group = config.dist.shard_group;
  if (is_sharded(config.dist, num_processes) && shard_group > 0 &&
      num_processes % shard_group != 0) {
    throw UsageError(
        loaded.problem("dist.shard_group",
                       format("expected 0 or a divisor of the number of processes (%d), got %ld",
                              num_processes, static_cast<long>(shard_group))));
  }
  const int64_t at_once = config.micro_batch_tokens() * num_processes;
  if (config.train.global_batch_tokens % at_once == 0) return;
  throw UsageError(loaded.problem(
      "train.global_batch_tokens",
      format("expected 0 or a multiple of train.micro_batch * data.sequence_length * processes "
             "(%ld * %ld * %d = %ld), got %ld; %s would do",
             static_cast<long>(config.train.micro_batch),
             static_cast<long>(config.data.sequence_length), num_processes,
             static_cast<long>(at_once), static_cast<long>(config.train.global_batch_tokens),
             how_to_share(config, num_processes).c_str())));
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
