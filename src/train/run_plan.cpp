#include "train/run_plan.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "config/json.h"
#include "crnet/core/error.h"
#include "crnet/core/format.h"
#include "crnet/model/causal_lm.h"
#include "crnet/train/planner.h"
#include "ops/library_attention.h"

namespace crnet {
namespace {

using Json = nlohmann::json;

// What the choice depends on, apart from speeds. Another model is refused later, by name.
bool has_same_settings(const Checkpoint& checkpoint, const RunConfig& config,
                       const Runtime& runtime, int num_processes) {
  Json before = Json::parse(checkpoint.state.run_config), now = Json(to_json(config));
  for (Json* settings : {&before, &now}) (*settings)["recompute"].erase("check_every");
  for (const char* key :
       {"/model", "/recompute", "/train/micro_batch", "/train/global_batch_tokens",
        "/data/sequence_length", "/dist/shard", "/dist/shard_group", "/dist/gradients"}) {
    const Json::json_pointer place(key);
    if (!before.contains(place) || before.at(place) != now.at(place)) return false;
  }
  const Json extra = Json::parse(checkpoint.state.extra);
  return extra.value("precision", "") == dtype_name(runtime.compute_dtype) &&
         extra.value("device", "") == runtime.device.str() &&
         extra.value("processes", 1) == num_processes;
}

std::optional<RecomputePlan> saved_plan(const std::optional<Checkpoint>& start,
                                        const RunConfig& config, const Runtime& runtime,
                                        int num_processes) {
  if (!start || !has_same_settings(*start, config, runtime, num_processes)) return std::nullopt;
  const Json extra = Json::parse(start->state.extra);
  if (!extra.contains("recompute_plan")) return std::nullopt;
  return plan_from_json(extra.at("recompute_plan"));
}

void check_kept_attention(const LoadedConfig<RunConfig>& loaded, const Runtime& runtime) {
  if (!loaded.config.recompute.keep_attention ||
      can_hold_attention(runtime.device.is_cpu(), runtime.compute_dtype,
                         loaded.config.model.head_size())) {
    return;
  }
  throw UsageError(
      loaded.problem("recompute.keep_attention",
                     "expected false on a GPU but in bf16, with heads of a multiple of "
                     "8 numbers up to 128, got true"));
}

}  // namespace

RunPlan find_plan(const LoadedConfig<RunConfig>& loaded, const Runtime& runtime,
                  const Launch& launch, const std::optional<Checkpoint>& start,
                  const std::optional<RecomputePlan>& given) {
  const RunConfig& config = loaded.config;
  check_kept_attention(loaded, runtime);
  if (config.recompute.strategy != RecomputeStrategy::kAuto) {
    return {make_plan(config.recompute, config.model), ""};
  }
  if (auto saved = saved_plan(start, config, runtime, launch.world_size)) {
    return {*saved, "recompute: as before, " + describe(*saved)};
  }
  if (given) return {*given, "recompute: as given, " + describe(*given)};
  const PlannerInput input{
      config,
      runtime.compute_dtype == torch::kBFloat16,
      measure_machine_rates(runtime, config.model, config.data.sequence_length),
      runtime.device,
      process_bytes(runtime.device),
      launch.world_size};
  const int64_t budget = resolve_memory_budget(config.recompute.memory_budget, runtime.device,
                                               launch.local_world_size);
  const auto chosen = loaded.located([&] { return choose_plan(input, budget); });
  const auto none = estimate_plan(input, make_plan({}, config.model), "none");
  return {chosen.plan,
          format("recompute: %s; a peak of about %s of %s, %.1f%% more time than with everything "
                 "kept",
                 describe(chosen.plan).c_str(),
                 format_bytes(static_cast<double>(chosen.memory.peak)).c_str(),
                 format_bytes(static_cast<double>(budget)).c_str(),
                 100 * (chosen.seconds / none.seconds - 1))};
}

Json plan_to_json(const RecomputePlan& plan) {
  Json blocks = Json::array();
  for (const auto& block : plan.blocks) {
    Json kept = Json::array();
    if (block.graph) kept.push_back("graph");
    if (block.products) kept.push_back("products");
    if (block.outputs) kept.push_back("outputs");
    if (block.attention) kept.push_back("attention");
    blocks.push_back(std::move(kept));
  }
  return {{"inverts", plan.inverts},
          {"max_amplification", plan.max_amplification},
          {"blocks", std::move(blocks)}};
}

RecomputePlan plan_from_json(const Json& json) {
  RecomputePlan plan;
  plan.inverts = json.at("inverts");
  plan.max_amplification = json.at("max_amplification");
  for (const auto& kept : json.at("blocks")) {
    const auto has = [&](const char* what) {
      return std::find(kept.begin(), kept.end(), what) != kept.end();
    };
    plan.blocks.push_back({.graph = has("graph"),
                           .products = has("products"),
                           .outputs = has("outputs"),
                           .attention = has("attention")});
  }
  return plan;
}

}  // namespace crnet
