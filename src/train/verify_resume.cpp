#include "crnet/train/verify_resume.h"

#include <torch/utils.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "crnet/core/error.h"
#include "crnet/core/format.h"
#include "crnet/core/log.h"
#include "crnet/dist/group.h"
#include "crnet/train/trainer.h"
#include "train/checkpoint_manifest.h"
#include "train/run_comparison.h"
#include "train/run_folder.h"
#include "train/run_plan.h"

namespace crnet {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr const char *kStraight = "straight", *kResumed = "resumed";

int64_t check_steps(const RunConfig& config, const VerifyResumeOptions& options) {
  const auto expect = [](const char* name, int64_t value, int64_t least, int64_t most,
                         const char* limit) {
    if (value >= least && value <= most) return;
    throw UsageError(format("[verify-resume] --%s: expected %ld to %ld (%s), got %ld", name,
                            static_cast<long>(least), static_cast<long>(most), limit,
                            static_cast<long>(value)));
  };
  expect("steps", options.steps, 2, config.train.steps, "train.steps");
  const int64_t stop_after = options.stop_after.value_or(options.steps / 2);
  expect("at", stop_after, 1, options.steps - 1, "one less than --steps");
  return stop_after;
}

fs::path normal(const fs::path& folder) {
  const fs::path path = fs::absolute(folder).lexically_normal();
  return path.has_filename() ? path : path.parent_path();
}

fs::path beside(const fs::path& run_dir) {
  const fs::path run = normal(run_dir);
  return run.parent_path() / format("%s-verify-resume-%d", run.filename().c_str(), getpid());
}

void expect_unused(const fs::path& folder, const fs::path& run_dir) {
  const bool is_unused = !fs::exists(folder) || (fs::is_directory(folder) && fs::is_empty(folder));
  if (is_unused && normal(folder) != normal(run_dir)) return;
  throw UsageError(
      "[verify-resume] --dir: expected a new or empty folder other than train.run_dir, got " +
      folder.string());
}

RecomputePlan plan_of(const fs::path& checkpoint) {
  const Json extra = Json::parse(detail::read_manifest(checkpoint).state.extra);
  return plan_from_json(extra.at("recompute_plan"));
}

class Verification {
 public:
  Verification(const LoadedConfig<RunConfig>& loaded, const VerifyResumeOptions& options,
               int64_t stop_after, Group& group)
      : loaded_(loaded), options_(options), stop_after_(stop_after), group_(group) {
    folder_ = group_.together("find a folder", [&] { return choose_folder(); });
    folder_ = group_.gather(folder_.string(), "the folder")[0];
  }
  ~Verification() {
    std::error_code ignored;
    if (group_.is_first() && !stays_) fs::remove_all(folder_, ignored);
  }
  Verification(const Verification&) = delete;
  Verification& operator=(const Verification&) = delete;

  VerifyResumeResult run();

 private:
  [[nodiscard]] fs::path choose_folder() const;
  [[nodiscard]] TrainSummary train_part(const std::string& name, int64_t last_step,
                                        const TrainOptions& more) const;
  [[nodiscard]] RunComparison compare(const TrainSummary& straight,
                                      const TrainSummary& resumed) const;

  const LoadedConfig<RunConfig>& loaded_;
  const VerifyResumeOptions& options_;
  const int64_t stop_after_;
  Group& group_;
  fs::path folder_;
  bool stays_ = options_.keep || !options_.folder.empty();
};

fs::path Verification::choose_folder() const {
  const fs::path run_dir = loaded_.config.train.run_dir;
  if (options_.folder.empty()) return beside(run_dir);
  expect_unused(options_.folder, run_dir);
  return options_.folder;
}

TrainSummary Verification::train_part(const std::string& name, int64_t last_step,
                                      const TrainOptions& more) const {
  LoadedConfig<RunConfig> loaded = loaded_;
  loaded.config.train.run_dir = (folder_ / name).string();
  // Once is enough, and reads all there is.
  if (name != kStraight) loaded.config.data.verify = false;
  TrainOptions options = more;
  options.stop_after = last_step;
  options.program = options_.program;
  options.launch = options_.launch;
  options.launch.store_is_served = true;  // by group_, for all parts
  const TrainSummary summary = train(loaded, options);
  if (summary.steps == last_step) return summary;
  throw Error(format(
      "[verify-resume] expected %ld steps in %s, got a signal to stop after %ld; "
      "nothing was compared",
      static_cast<long>(last_step), summary.run_dir.c_str(), static_cast<long>(summary.steps)));
}

RunComparison Verification::compare(const TrainSummary& straight,
                                    const TrainSummary& resumed) const {
  const auto record = [](const TrainSummary& run) {
    return RunRecord{RunFolder{run.run_dir}.metrics(), open_checkpoint(run.checkpoint)};
  };
  const auto own = group_.together("compare the runs", [&] {
    return group_.is_first() ? compare_runs(record(straight), record(resumed)) : RunComparison{};
  });
  const Json told = {own.difference, own.num_steps, own.num_tensors, own.num_elements};
  const Json first = Json::parse(group_.gather(told.dump(), "the comparison")[0]);
  return {first[0], first[1], first[2], first[3]};
}

VerifyResumeResult Verification::run() {
  // 1. The run that never stops.
  const TrainSummary straight = train_part(kStraight, options_.steps, {});

  // 2. The same, stopped on its way.
  log::info(format("verify-resume: the same again, to stop after step %ld",
                   static_cast<long>(stop_after_)));
  TrainOptions fresh;
  group_.together("read the plan", [&] {
    if (group_.is_first()) fresh.plan = plan_of(straight.checkpoint);
  });
  const TrainSummary stopped = train_part(kResumed, stop_after_, fresh);

  // 3. And resumed, from what the checkpoint holds alone.
  log::info(format("verify-resume: on from its checkpoint, to step %ld",
                   static_cast<long>(options_.steps)));
  torch::manual_seed(static_cast<uint64_t>(loaded_.config.train.seed) + 1);
  TrainOptions again;
  again.resume = stopped.checkpoint.string();
  const TrainSummary resumed = train_part(kResumed, options_.steps, again);

  const RunComparison found = compare(straight, resumed);
  stays_ = stays_ || !found.difference.empty();
  return {found.difference,  found.num_steps,    stop_after_,
          found.num_tensors, found.num_elements, stays_ ? folder_ : fs::path()};
}

}  // namespace

VerifyResumeResult verify_resume(const LoadedConfig<RunConfig>& loaded,
                                 const VerifyResumeOptions& options) {
  const int64_t stop_after = check_steps(loaded.config, options);
  DistConfig meeting = loaded.config.dist;  // words alone: no tensors travel by this group
  meeting.backend = Backend::kAuto;
  meeting.shard = Sharding::kNone;
  Group group(options.launch, meeting, torch::kCPU);
  try {
    if (!group.is_first()) log::keep_to_errors();
    return Verification(loaded, options, stop_after, group).run();
  } catch (const std::exception& failure) {
    group.leave(failure.what());
    throw;
  }
}

}  // namespace crnet
