#include "crnet/train/trainer.h"

#include <ATen/record_function.h>
#include <torch/utils.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <string_view>

#include "crnet/core/error.h"
#include "crnet/core/file.h"
#include "crnet/core/format.h"
#include "crnet/core/log.h"
#include "crnet/dist/group.h"
#include "crnet/model/costs.h"
#include "crnet/train/evaluate.h"
#include "crnet/train/metrics.h"
#include "crnet/train/parallel_plan.h"
#include "crnet/train/schedule.h"
#include "crnet/train/stop_signal.h"
#include "train/agreement.h"
#include "train/checkpoint_saver.h"
#include "train/recompute_report.h"
#include "train/run_folder.h"
#include "train/run_plan.h"
#include "train/run_profile.h"
#include "train/run_start.h"
#include "train/run_state.h"
#include "train/train_progress.h"
#include "train/train_step.h"

namespace crnet {
namespace {

using Clock = std::chrono::steady_clock;
constexpr double kSmoothing = 0.95;
constexpr std::string_view kStopping =
    "\ncrnet: stopping with a checkpoint after this step or the next; another signal, two seconds "
    "from now or later, ends the run at once, without one\n";

class TrainingRun {
 public:
  TrainingRun(const LoadedConfig<RunConfig>& loaded, const TrainOptions& options,
              const Runtime& runtime, Group& group)
      : group_(group),
        loaded_(loaded),
        program_(options.program),
        is_part_(options.stop_after > 0),
        last_step_(options.stop_after > 0 ? std::min(options.stop_after, config_.train.steps)
                                          : config_.train.steps),
        folder_{config_.train.run_dir},
        data_(group_.together("open the data", [&] { return open_data(loaded); })),
        runtime_(runtime),
        store_(folder_.checkpoints(), config_.checkpoint.keep_last, config_.checkpoint.keep_every),
        start_(agree_on_start(group_, folder_, options.resume, data_.train.index(), store_, lock_)),
        profile_(make_profile(options.profile_steps)),
        plan_(agree_on_plan(group_, loaded, runtime_, start_.checkpoint, options.plan)),
        state_(config_, runtime_, plan_.plan, group_),
        saver_(group_, store_),
        peak_flops_(measure_peak_flops(runtime_)) {
    report_refusals();
    group_.together("load the weights", [&] { load_weights(); });
    state_.parallel->synchronize();
  }
  TrainingRun(const TrainingRun&) = delete;
  TrainingRun& operator=(const TrainingRun&) = delete;

  TrainSummary run();

 private:
  std::unique_ptr<RunProfile> make_profile(int64_t num_steps) const;
  void load_weights();
  void report_refusals() const;
  TrainSummary nothing_to_do();
  void open_folder();
  void announce() const;
  StepMetrics one_step();
  void validate();
  void save();
  void finish_save();
  void report(const std::optional<SaveOutcome>& outcome) const;
  void finish_profile();
  void stop_on_bad_steps(const StepMetrics& metrics);
  [[nodiscard]] std::string how_to_go_on() const;
  void say_how_it_ended() const;
  [[nodiscard]] bool is_due(int64_t every) const {
    return every > 0 && state_.step % every == 0 && state_.step < last_step_;
  }
  [[nodiscard]] LoaderOptions loader_options() const;
  void note(const char* what) {
    if (progress_) progress_->note(what);
  }

  struct LogFiles {
    ~LogFiles() { log::close_files(); }
  };

  const LogFiles log_files_{};
  Group& group_;
  const LoadedConfig<RunConfig> loaded_;
  const RunConfig& config_ = loaded_.config;
  const std::string program_;
  const bool is_part_;       // whose caller knows how it goes on
  const int64_t last_step_;  // of this part
  const RunFolder folder_;
  const RunData data_;
  const Runtime runtime_;
  CheckpointStore store_;
  // On the folder, until the process ends. From before its checkpoints are looked at: another
  // process may be adding to them.
  detail::Descriptor lock_;
  const RunStart start_;
  const std::unique_ptr<RunProfile> profile_;  // outlives the threads that are recorded
  const RunPlan plan_;
  RunState state_;
  CheckpointSaver saver_;
  const double peak_flops_;
  std::filesystem::path config_file_;
  std::optional<Loader> loader_;
  std::optional<MetricsFile> metrics_;  // of the first process, as the next
  std::optional<TrainProgress> progress_;
  double usual_seconds_ = 0;  // of a step
  bool stops_ = false;        // as all processes have agreed
  TrainSummary summary_;
};

std::unique_ptr<RunProfile> TrainingRun::make_profile(int64_t num_steps) const {
  if (num_steps == 0) return nullptr;
  const int64_t done = start_.checkpoint ? start_.checkpoint->state.step : 0;
  return std::make_unique<RunProfile>(done + kProfileWarmup + 1, num_steps, folder_.path, group_,
                                      runtime_.device);
}

void TrainingRun::load_weights() {
  if (start_.checkpoint) {
    state_.restore(*start_.checkpoint, config_, data_.train.index());
  } else {
    const auto seed = static_cast<uint64_t>(config_.train.seed);
    torch::manual_seed(seed);  // LibTorch's generator starts anywhere, and a checkpoint holds it
    state_.initialize(seed);
  }
}

// Before the run is restored, which may fail; a run with checkpoints has its log already.
void TrainingRun::report_refusals() const {
  if (start_.refusals.empty()) return;
  log::add_file(folder_.log());
  for (const auto& line : start_.refusals) log::warn(line);
}

TrainSummary TrainingRun::nothing_to_do() {
  log::info(format("nothing to do: %s has done its %ld steps (train.steps)",
                   start_.checkpoint->folder.c_str(), static_cast<long>(state_.step)));
  summary_.steps = state_.step;
  summary_.run_dir = folder_.path;
  summary_.checkpoint = start_.checkpoint->folder;
  return summary_;
}

// Everything before this left the disk alone.
void TrainingRun::open_folder() {
  if (lock_.get() < 0) lock_ = folder_.make_and_lock();
  config_file_ =
      folder_.describe_run(loaded_, runtime_, peak_flops_, group_,
                           start_.checkpoint ? std::optional(state_.step) : std::nullopt);
  // The run's own copy: the data may be prepared anew while it goes on.
  copy_durably(std::filesystem::path(config_.data.path) / kTokenizerFile, folder_.tokenizer());
  log::add_file(folder_.log());
  if (start_.checkpoint) return;
  if (const auto aside = folder_.set_aside_metrics()) {
    log::info(
        "the run starts anew, since its last attempt left no checkpoint; what that measured is "
        "now in " +
        aside->string());
  }
}

void TrainingRun::announce() const {
  const auto counts = count_parameters(config_.model);
  log::info(format(
      "%s with %s parameters on %s; data %s, %s tokens", enum_name(config_.model.architecture),
      format_count(static_cast<double>(counts.total())).c_str(), describe(runtime_).c_str(),
      config_.data.path.c_str(), format_count(static_cast<double>(data_.train.tokens())).c_str()));
  if (group_.launch().launcher != Launcher::kNone) {
    log::info("started by " + describe(group_.launch()) + ", device " + runtime_.device.str() +
              ", backend " + group_.backend());
  }
  if (!plan_.note.empty()) log::info(plan_.note);
  if (start_.checkpoint) {
    log::info("resumed from " + start_.checkpoint->folder.string());
    warn_of_changes(*start_.checkpoint, config_, runtime_, group_.size());
  }
}

LoaderOptions TrainingRun::loader_options() const {
  LoaderOptions options;
  options.batch = config_.train.micro_batch;
  options.sequence_length = config_.data.sequence_length;
  options.seed = static_cast<uint64_t>(config_.train.seed);
  options.world_size = group_.size();
  options.process = group_.rank();
  options.start_position = state_.samples_consumed;
  options.pin_memory = runtime_.device.is_cuda();
  return options;
}

TrainSummary TrainingRun::run() {
  if (start_.checkpoint && state_.step >= config_.train.steps) return nothing_to_do();
  const StopSignal signals(group_.is_first() && !is_part_ ? kStopping : "");
  group_.together("open the run's folder", [&] {
    if (!group_.is_first()) return;
    open_folder();
    announce();
    metrics_.emplace(folder_.metrics(), start_.checkpoint ? state_.step : -1);
    progress_.emplace(last_step_, config_.train.log_every);
  });
  loader_.emplace(data_.train, loader_options());
  summary_.run_dir = folder_.path;
  if (state_.step == 0) validate();
  while (state_.step < last_step_ && !stops_) {
    if (profile_) profile_->before_step(state_.step + 1);
    const StepMetrics metrics = one_step();
    if (metrics_) metrics_->write(metrics);
    if (progress_) progress_->show(metrics);
    report(saver_.ended());
    stop_on_bad_steps(metrics);
    if (is_due(config_.train.eval_every) && !stops_) validate();
    // In a row of bad steps the weights are in doubt: the sound checkpoints stay.
    if (is_due(config_.checkpoint.every) && !metrics.skipped && !stops_) save();
    if (profile_ && profile_->ends_after(state_.step)) finish_profile();
  }
  if (profile_ && !profile_->is_finished()) finish_profile();
  summary_.stopped = state_.step < config_.train.steps;
  if (!summary_.stopped) validate();
  save();
  finish_save();
  if (metrics_) metrics_->flush();
  progress_.reset();
  summary_.steps = state_.step;
  summary_.skipped_steps = state_.skipped_steps;
  say_how_it_ended();
  return summary_;
}

std::string TrainingRun::how_to_go_on() const {
  const bool by_crnet = group_.launch().launcher == Launcher::kCrnet;
  const std::string launch = by_crnet ? format("launch --nproc %d ", group_.size()) : "";
  return format("; go on with%s: %s %strain %s --resume auto",
                group_.size() > 1 && !by_crnet ? " the same launcher and" : "",
                shell_word(program_).c_str(), launch.c_str(), shell_word(config_file_).c_str());
}

void TrainingRun::say_how_it_ended() const {
  if (summary_.stopped) {
    log::info(format("stopped after step %ld and saved %s%s", static_cast<long>(summary_.steps),
                     summary_.checkpoint.c_str(), is_part_ ? "" : how_to_go_on().c_str()));
    return;
  }
  const std::string skipped =
      summary_.skipped_steps == 0
          ? ""
          : format(" (%ld skipped)", static_cast<long>(summary_.skipped_steps));
  log::info(format("done after %ld step%s%s; checkpoint %s, curve %s",
                   static_cast<long>(summary_.steps), summary_.steps == 1 ? "" : "s",
                   skipped.c_str(), summary_.checkpoint.c_str(), folder_.picture().c_str()));
}

StepMetrics TrainingRun::one_step() {
  const auto begin = Clock::now();
  StepPlan plan;
  plan.number = state_.step + 1;
  plan.num_micro_batches = config_.accumulation_steps(group_.size());
  plan.wants_to_stop = StopSignal::received() != 0;
  plan.lr = learning_rate(config_.schedule, config_.optimizer.lr, state_.step, config_.train.steps);
  plan.clip_norm = config_.optimizer.clip_norm;
  const bool checks_drift = is_due(config_.recompute.check_every);
  if (checks_drift) state_.model->stack().check_next();
  const RecomputeReport recompute(state_.model->stack(), runtime_.compute_dtype);
  group_.at_step(state_.step + 1, usual_seconds_);
  const StepResult result = train_step(
      state_.pass, [&] { return loader_->next(); }, state_.optimizer, group_, *state_.parallel,
      plan);
  // A single process need not agree with others, and stops after the step in which it was told to.
  stops_ = result.stops || (group_.size() == 1 && StopSignal::received() != 0);

  const int64_t tokens = plan.num_micro_batches * config_.micro_batch_tokens() * group_.size();
  state_.step += 1;
  state_.samples_consumed = loader_->position();
  state_.tokens_seen += tokens;
  state_.skipped_steps += result.skipped ? 1 : 0;
  state_.bad_steps_in_a_row = result.skipped ? state_.bad_steps_in_a_row + 1 : 0;
  if (std::isfinite(result.loss)) {
    state_.smoothed_loss = kSmoothing * state_.smoothed_loss + (1 - kSmoothing) * result.loss;
    state_.smoothing_weight = kSmoothing * state_.smoothing_weight + (1 - kSmoothing);
  }
  summary_.final_loss = result.loss;

  StepMetrics metrics;
  metrics.step = state_.step;
  metrics.loss = result.loss;
  metrics.smoothed_loss =
      state_.smoothing_weight > 0 ? state_.smoothed_loss / state_.smoothing_weight : result.loss;
  metrics.lr = plan.lr;
  metrics.grad_norm = result.grad_norm;
  metrics.skipped = result.skipped;
  metrics.tokens_seen = state_.tokens_seen;
  metrics.seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  usual_seconds_ = usual_seconds_ == 0
                       ? metrics.seconds
                       : kSmoothing * usual_seconds_ + (1 - kSmoothing) * metrics.seconds;
  metrics.tokens_per_second = static_cast<double>(tokens) / metrics.seconds;
  metrics.peak_share = metrics.tokens_per_second *
                       count_flops(config_.model, config_.data.sequence_length).training() /
                       (peak_flops_ * group_.size());
  metrics.memory_bytes = peak_memory_bytes(runtime_.device);
  recompute.finish(checks_drift, metrics);
  return metrics;
}

void TrainingRun::stop_on_bad_steps(const StepMetrics& metrics) {
  if (!metrics.skipped) return;
  log::warn(
      format("step %ld: loss %g, gradient norm %g: not finite, so the weights stay as they "
             "were (%ld in a row)",
             static_cast<long>(metrics.step), metrics.loss, metrics.grad_norm,
             static_cast<long>(state_.bad_steps_in_a_row)));
  if (state_.bad_steps_in_a_row < config_.train.max_bad_steps) return;
  report(saver_.wait());
  const auto saved = store_.list();
  throw Error(
      format("[train] step %ld: expected a finite loss and gradient, got %ld updates in a row "
             "without (train.max_bad_steps); nothing was overwritten, the last checkpoint is "
             "%s; try a lower optimizer.lr or precision fp32",
             static_cast<long>(metrics.step), static_cast<long>(state_.bad_steps_in_a_row),
             saved.empty() ? "none" : saved.back().c_str()));
}

void TrainingRun::validate() {
  if (!data_.validation) return;
  RECORD_USER_SCOPE("crnet::validate");
  note("validating");
  group_.at_step(state_.step, /*usual_seconds=*/0);
  EvalOptions options;
  options.batch = config_.train.micro_batch;
  options.sequence_length = config_.data.sequence_length;
  options.max_tokens = config_.train.eval_tokens;
  options.num_processes = group_.size();
  options.process = group_.rank();
  options.in_step = state_.parallel->forward_communicates();
  bool cut_short = false;
  const EvalResult own = evaluate(*state_.model, runtime_.device, *data_.validation, options, [&] {
    cut_short = !stops_ && StopSignal::received() != 0;
    if (!options.in_step) return !cut_short;
    return group_.sum({cut_short ? 1.0 : 0.0}, "validation")[0] == 0;
  });
  const auto tokens = static_cast<double>(own.tokens);
  const auto sums = group_.sum({own.loss * tokens, tokens, cut_short ? 1.0 : 0.0}, "validation");
  if (sums[2] > 0) {  // no figure to keep
    stops_ = true;
    return;
  }
  const EvalResult result{sums[0] / sums[1], static_cast<int64_t>(sums[1])};
  summary_.validation_loss = result.loss;
  const EvalMetrics metrics{state_.step, result.loss, result.perplexity(), result.tokens};
  if (metrics_) metrics_->write(metrics);
  if (progress_) progress_->show(metrics);
}

// Goes on while the checkpoint is written, unless it is the last: what came of it is reported
// later.
void TrainingRun::save() {
  RECORD_USER_SCOPE("crnet::save");
  note("saving");
  group_.at_step(state_.step, /*usual_seconds=*/0);
  report(saver_.wait());
  const bool goes_on = state_.step < last_step_ && !stops_;
  saver_.begin(state_.capture(config_, runtime_, data_.train.index(), folder_.tokenizer(), group_),
               config_.checkpoint.background && goes_on);
  if (!group_.is_first()) return;
  try {
    write_loss_svg(folder_.picture(), metrics_->curve(), "Loss: " + folder_.path.string());
  } catch (const Error& failure) {
    log::warn(failure.what());  // a picture is not worth a run
  }
}

void TrainingRun::report(const std::optional<SaveOutcome>& outcome) const {
  if (!outcome || !group_.is_first()) return;
  if (!outcome->failure.empty()) {
    // The weights are in memory still: a later save may find room.
    log::error(outcome->failure);
    return;
  }
  log::info(format("saved %s: %s in %.2g s, for %.2g s of which training waited",
                   outcome->folder.c_str(),
                   format_bytes(static_cast<double>(outcome->bytes)).c_str(), outcome->seconds,
                   outcome->wait_seconds));
}

// A trace has all of a save, and no other thread may be inside an operator when recording ends.
void TrainingRun::finish_profile() {
  report(saver_.wait());
  (void)group_.gather("", "the profile");  // one may have written for long
  loader_->wait_until_full();
  try {
    log::info(profile_->finish(state_.step));
  } catch (const Error& failure) {
    log::error(failure.what());  // a trace is not worth a run
  }
}

void TrainingRun::finish_save() {
  report(saver_.wait());
  summary_.checkpoint = saver_.latest();
}

}  // namespace

TrainSummary train(const LoadedConfig<RunConfig>& loaded, const TrainOptions& options) {
  check_processes(loaded, options.launch.world_size);
  check_profile(options.profile_steps, loaded.config.train.steps);
  const Runtime runtime = select_runtime(loaded.config.train, options.launch);
  Group group(options.launch, loaded.config.dist, runtime.device);
  try {
    if (!group.is_first()) log::keep_to_errors();
    agree_on_settings(group, loaded.config, runtime);
    group.expect_same({{"step to stop after", std::to_string(options.stop_after)}});
    return TrainingRun(loaded, options, runtime, group).run();
  } catch (const std::exception& failure) {
    group.leave(failure.what());
    throw;
  }
}

}  // namespace crnet
