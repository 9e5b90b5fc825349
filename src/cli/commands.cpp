#include "cli/commands.h"

#include <array>
#include <cstdlib>

#include "crnet/core/error.h"
#include "crnet/core/format.h"

namespace crnet {
namespace {

constexpr auto kCommands = std::to_array<Command>({
    {"prepare", run_prepare, "text to token shards, with a tokenizer given or trained"},
    {"train", run_train, "train a model as a configuration file says"},
    {"launch", run_launch, "train in several processes on this machine"},
    {"eval", run_eval, "perplexity of a checkpoint on prepared data"},
    {"generate", run_generate, "continue a prompt with a checkpoint"},
    {"checkpoint", run_checkpoint, "verify checkpoints; bring one of many processes into one file"},
    {"verify-resume", run_verify_resume, "whether a resumed run is the run that never stopped"},
    {"plan", run_plan, "parameters, FLOPs and memory of a configuration"},
    {"bench", run_bench, "a training step against what it cannot avoid, and where its time goes"},
    {"config", run_config, "the resolved configuration, or the schema of all keys"},
});

}  // namespace

std::span<const Command> commands() {
  return kCommands;
}

const Command& find_command(const std::string& name) {
  std::vector<std::string> names;
  for (const auto& command : kCommands) {
    if (name == command.name) return command;
    names.emplace_back(command.name);
  }
  const std::string nearest = nearest_match(name, names);
  throw UsageError("[crnet] unknown command " + name +
                   (nearest.empty() ? "" : "; did you mean " + nearest + "?") +
                   " See crnet --help");
}

cxxopts::ParseResult parse_arguments(cxxopts::Options& options, int argc, char** argv) {
  const std::string command = argv[0];
  try {
    auto parsed = options.parse(argc, argv);
    if (!parsed.unmatched().empty()) {
      throw UsageError("[" + command + "] expected no further argument, got " +
                       parsed.unmatched().front() + "; see crnet " + command + " --help");
    }
    return parsed;
  } catch (const cxxopts::exceptions::exception& error) {
    throw UsageError("[" + command + "] " + error.what() + "; see crnet " + command + " --help");
  }
}

void add_runtime_options(cxxopts::Options& options) {
  options.add_options()("device", "auto, cpu or cuda",
                        cxxopts::value<std::string>()->default_value("auto"))(
      "precision", "auto, bf16 or fp32", cxxopts::value<std::string>()->default_value("auto"))(
      "threads", "CPU threads; 0: all cores", cxxopts::value<int64_t>()->default_value("0"));
}

void keep_profiler_quiet() {
  ::setenv("KINETO_LOG_LEVEL", "5", /*overwrite=*/0);  // above its severest, 4
}

std::vector<std::string> overrides_in(const cxxopts::ParseResult& parsed) {
  std::vector<std::string> overrides;
  for (const auto& argument : parsed.arguments()) {
    if (argument.key() == "set") overrides.push_back(argument.value());
  }
  return overrides;
}

std::string required(const cxxopts::ParseResult& parsed, const std::string& name,
                     const std::string& command, const std::string& what) {
  if (parsed.count(name) != 0) return parsed[name].as<std::string>();
  throw UsageError("[" + command + "] expected " + what + ", got none; see crnet " + command +
                   " --help");
}

}  // namespace crnet
