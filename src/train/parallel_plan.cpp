#include "crnet/train/parallel_plan.h"

#include <algorithm>

#include "crnet/core/error.h"
#include "crnet/core/format.h"
#include "crnet/dist/data_parallel.h"
#include "crnet/model/causal_lm.h"
#include "train/parallel_state.h"
#include "train/parallel_step.h"

namespace crnet {
namespace {

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

  const StepShape shape{.batch = config.train.micro_batch,
                        .sequence_length = config.data.sequence_length,
                        .bf16 = input.bf16,
                        .recompute = plan.recompute.plan,
                        .accumulates = plan.num_micro_batches > 1,
                        .on_cpu = input.device.is_cpu()};
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
