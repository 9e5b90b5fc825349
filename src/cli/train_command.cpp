// crnet train: a run as a configuration file says.
#include <cmath>
#include <cstdio>

#include "cli/commands.h"
#include "crnet/core/format.h"
#include "crnet/core/log.h"
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
  options.custom_help("CONFIG [--set key=value ...] [--resume auto|CHECKPOINT]").positional_help("");
  return options;
}

void report(const TrainSummary& summary, const std::string& config) {
  if (summary.stopped) {
    log::info(format("stopped after step %ld and saved %s; go on with: crnet train %s --resume auto "
                     "(and the same --set)",
                     static_cast<long>(summary.steps), summary.checkpoint.c_str(), config.c_str()));
    return;
  }
  log::info(format("done after %ld steps%s; checkpoint %s, curve %s",
                   static_cast<long>(summary.steps),
                   summary.skipped_steps == 0
                       ? ""
                       : format(" (%ld skipped)", static_cast<long>(summary.skipped_steps)).c_str(),
                   summary.checkpoint.c_str(), (summary.run_dir / "loss.svg").c_str()));
}

}  // namespace

int run_train(int argc, char** argv) {
  auto options = train_options();
  const auto parsed = parse_arguments(options, argc, argv);
  if (parsed.count("help") != 0) {
    std::printf("%s", options.help().c_str());
    return 0;
  }
  const std::string config = required(parsed, "config", "train");
  const auto loaded = load_run_config(config, overrides_in(parsed));
  TrainOptions train_options;
  if (parsed.count("resume") != 0) train_options.resume = parsed["resume"].as<std::string>();
  report(train(loaded, train_options), config);
  return 0;
}

}  // namespace crnet
