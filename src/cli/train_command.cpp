// crnet train: a run as a configuration file says.
#include <cerrno>
#include <cstdio>

#include "cli/commands.h"
#include "crnet/train/device.h"
#include "crnet/train/trainer.h"

namespace crnet {
namespace {

cxxopts::Options train_options() {
  cxxopts::Options options("crnet train", "Trains a model as a configuration file says.");
  options.add_options()("config", "recipe, YAML or JSON", cxxopts::value<std::string>())(
      "set", "override: key=value (may be repeated)", cxxopts::value<std::string>())(
      "resume", "auto: the newest sound checkpoint of the run's folder; or a checkpoint's folder",
      cxxopts::value<std::string>())("h,help", "this text");
  options.parse_positional({"config"});
  options.custom_help("CONFIG [--set key=value ...] [--resume auto|CHECKPOINT]")
      .positional_help("");
  return options;
}

}  // namespace

int run_train(int argc, char** argv) {
  auto options = train_options();
  const auto parsed = parse_arguments(options, argc, argv);
  if (parsed.count("help") != 0) {
    std::printf("%s", options.help().c_str());
    return 0;
  }
  keep_freed_memory();
  const auto loaded =
      load_run_config(required(parsed, "config", "train", "a recipe"), overrides_in(parsed));
  TrainOptions train_options;
  train_options.program = program_invocation_name;
  train_options.launch = detect_launch();
  if (parsed.count("resume") != 0) train_options.resume = parsed["resume"].as<std::string>();
  train(loaded, train_options);
  return 0;
}

}  // namespace crnet
