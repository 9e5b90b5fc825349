#include "crnet/train/run_config.h"

#include "crnet/core/error.h"
#include "crnet/core/format.h"
#include "crnet/model/causal_lm.h"

namespace crnet {

namespace {

long as_long(int64_t value) {
  return static_cast<long>(value);
}

void check_batch(const RunConfig& config) {
  const int64_t longest = config.model.max_sequence_length;
  if (config.data.sequence_length > longest) {
    throw UsageError(
        format("data.sequence_length: expected at most model.max_sequence_length (%ld), got %ld",
               as_long(longest), as_long(config.data.sequence_length)));
  }
  const int64_t micro = config.micro_batch_tokens();
  if (config.train.global_batch_tokens % micro != 0) {
    throw UsageError(
        format("train.global_batch_tokens: expected 0 or a multiple of train.micro_batch * "
               "data.sequence_length (%ld * %ld = %ld), got %ld",
               as_long(config.train.micro_batch), as_long(config.data.sequence_length),
               as_long(micro), as_long(config.train.global_batch_tokens)));
  }
}

void check_schedule(const RunConfig& config) {
  const auto& schedule = config.schedule;
  const int64_t steps = config.train.steps;
  if (schedule.warmup_steps > steps) {
    throw UsageError(
        format("schedule.warmup_steps: expected at most train.steps (%ld), got %ld; lower it as "
               "well, with --set schedule.warmup_steps=%ld",
               as_long(steps), as_long(schedule.warmup_steps), as_long(steps / 10)));
  }
  if (schedule.kind != ScheduleKind::kWsd) return;
  if (schedule.decay_steps == 0) {
    throw UsageError(
        "schedule.decay_steps: expected an integer >= 1 where schedule.kind is wsd, got 0");
  }
  if (schedule.decay_steps > steps - schedule.warmup_steps) {
    throw UsageError(format(
        "schedule.decay_steps: expected at most train.steps - schedule.warmup_steps (%ld), got %ld",
        as_long(steps - schedule.warmup_steps), as_long(schedule.decay_steps)));
  }
}

// A check reads norms, of another block each time; inversion every β.
void check_cuda_graphs(const RunConfig& config) {
  if (!config.train.cuda_graphs) return;
  if (config.recompute.strategy == RecomputeStrategy::kInverse) {
    throw UsageError(
        "recompute.strategy: expected one that does not invert with train.cuda_graphs, got "
        "inverse; replay gives the bits of none");
  }
  if (config.recompute.check_every == 0) return;
  throw UsageError(format("recompute.check_every: expected 0 with train.cuda_graphs, got %ld",
                          as_long(config.recompute.check_every)));
}

}  // namespace

void RunConfig::validate() const {
  check_limits(*this);
  model.validate();
  static_cast<void>(make_plan(recompute, model));
  check_batch(*this);
  check_schedule(*this);
  check_cuda_graphs(*this);
}

LoadedConfig<RunConfig> load_run_config(const std::string& path,
                                        const std::vector<std::string>& overrides) {
  return load_config<RunConfig>(path, overrides);
}

}  // namespace crnet
