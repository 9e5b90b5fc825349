#include "crnet/train/parallel_plan.h"

#include "crnet/core/error.h"
#include "crnet/core/format.h"
#include "crnet/model/causal_lm.h"
#include "crnet/train/trainer.h"
#include "train/parallel_state.h"
#include "train/parallel_step.h"

namespace crnet {
namespace {

// Ways to share, each as settings of dist.
std::vector<DistConfig> ways_to_share(const DistConfig& configured, const Network& network,
                                      int num_processes) {
  DistConfig dist = configured;
  dist.shard = Sharding::kNone;
  dist.shard_group = 0;
  std::vector<DistConfig> ways = {dist};
  if (num_processes == 1) return ways;
  for (const auto shard : {Sharding::kOptimizer, Sharding::kParameters}) {
    dist.shard = shard;
    ways.push_back(dist);
  }
  dist.shard_group = configured.shard_group > 0 ? configured.shard_group : network.per_node;
  if (dist.shard_group < num_processes) ways.push_back(dist);
  return ways;
}

PlanEstimate recompute_within(const PlannerInput& input, int64_t budget) {
  const RunConfig& config = input.config;
  if (config.recompute.strategy == RecomputeStrategy::kAuto) return nearest_plan(input, budget);
  return estimate_plan(input, make_plan(config.recompute, config.model),
                       enum_name(config.recompute.strategy));
}

ParallelPlan plan_one(const PlannerInput& input, const Network& network, int64_t budget) {
  const RunConfig& config = input.config;
  const Sharing sharing = sharing_of(config.dist, input.num_processes, input.device);
  ParallelPlan plan;
  plan.num_processes = input.num_processes;
  plan.shard = config.dist.shard;
  plan.shard_size = sharing.shard_size();
  plan.num_micro_batches = config.accumulation_steps(input.num_processes);
  plan.state = count_state(config.model, input.bf16, plan.num_micro_batches > 1, sharing);
  plan.recompute = recompute_within(input, budget);
  plan.fits = plan.recompute.memory.peak <= budget;

  const StepShape shape{config.train.micro_batch, config.data.sequence_length, input.bf16,
                        plan.recompute.plan};
  const auto predict = [&](const Sharing& way) {
    return predict_step(config.model, shape, input.rates, plan.num_micro_batches, way, network);
  };
  const StepTimes step = predict(sharing);
  plan.bytes_sent = step.bytes;
  plan.communication = step.communication;
  plan.exposed = step.exposed;
  plan.seconds = step.seconds;
  const auto tokens = static_cast<double>(input.num_processes * plan.num_micro_batches *
                                          config.micro_batch_tokens());
  plan.tokens_per_second = tokens / step.seconds;
  plan.efficiency = predict(Sharing{}).seconds / step.seconds;
  return plan;
}

}  // namespace

void check_plannable(const LoadedConfig<RunConfig>& loaded, const Network& network,
                     int num_processes) {
  if (num_processes > network.per_node && num_processes % network.per_node != 0) {
    throw UsageError(
        format("[plan] expected a number of processes that fills nodes of %ld, got %d; say with "
               "--per-node how many a node has",
               static_cast<long>(network.per_node), num_processes));
  }
  LoadedConfig<RunConfig> sharded = loaded;
  sharded.config.dist.shard = Sharding::kParameters;
  check_processes(sharded, num_processes);
}

std::vector<ParallelPlan> plan_processes(const LoadedConfig<RunConfig>& loaded,
                                         const PlannerInput& input, const Network& network,
                                         int num_processes, int64_t budget) {
  check_plannable(loaded, network, num_processes);
  PlannerInput one = input;
  one.num_processes = num_processes;
  std::vector<ParallelPlan> plans;
  for (const auto& dist : ways_to_share(loaded.config.dist, network, num_processes)) {
    one.config.dist = dist;
    plans.push_back(plan_one(one, network, budget));
  }
  return plans;
}

}  // namespace crnet
