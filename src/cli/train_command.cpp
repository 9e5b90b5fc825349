// crnet train: a run as a configuration file says.
#include <cerrno>
#include <cstdio>

#include "cli/commands.h"
#include "crnet/core/error.h"
#include "crnet/core/format.h"
#include "crnet/train/device.h"
#include "crnet/train/parallel_plan.h"
#include "crnet/train/trainer.h"

namespace crnet {
namespace {

cxxopts::Options train_options() {
  cxxopts::Options options("crnet train", "Trains a model as a configuration file says.");
  options.add_options()("config", "recipe, YAML or JSON", cxxopts::value<std::string>())(
      "set", "override: key=value (may be repeated)", cxxopts::value<std::string>())(
      "resume", "auto: the newest sound checkpoint of the run's folder; or a checkpoint's folder",
      cxxopts::value<std::string>())(
      "profile", "write a trace of so many steps, after 3 of warm-up, into the run's folder",
      cxxopts::value<int64_t>())("h,help", "this text");
  options.parse_positional({"config"});
  options.custom_help("CONFIG [--set key=value ...] [--resume auto|CHECKPOINT] [--profile STEPS]")
      .positional_help("");
  return options;
}

int64_t profile_steps(const cxxopts::ParseResult& parsed) {
  const auto steps = parsed["profile"].as<int64_t>();
  if (steps >= 1) return steps;
  throw UsageError(
      format("[train] --profile: expected at least 1 step, got %ld", static_cast<long>(steps)));
}

LoadedConfig<RunConfig> load_recipe(const cxxopts::ParseResult& parsed) {
  return load_run_config(required(parsed, "config", "train", "a recipe"), overrides_in(parsed));
}

}  // namespace

void check_train(int argc, char** argv, int num_processes) {
  auto options = train_options();
  const auto parsed = parse_arguments(options, argc, argv);
  if (parsed.count("help") != 0) return;
  if (parsed.count("profile") != 0) static_cast<void>(profile_steps(parsed));
  check_processes(load_recipe(parsed), num_processes);
}

int run_train(int argc, char** argv) {
  auto options = train_options();
  const auto parsed = parse_arguments(options, argc, argv);
  if (parsed.count("help") != 0) {
    std::printf("%s", options.help().c_str());
    return 0;
  }
  keep_freed_memory();
  keep_profiler_quiet();
  const auto loaded = load_recipe(parsed);
  TrainOptions train_options;
  train_options.program = program_invocation_name;
  train_options.launch = detect_launch();
  if (parsed.count("resume") != 0) train_options.resume = parsed["resume"].as<std::string>();
  if (parsed.count("profile") != 0) train_options.profile_steps = profile_steps(parsed);
  train(loaded, train_options);
  return 0;
}

}  // namespace crnet
