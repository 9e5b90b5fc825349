#include "cli/commands.h"

#include <algorithm>
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
    {"bench", run_bench, "how fast a training step is here, and where its time goes"},
    {"config", run_config, "the resolved configuration, or the schema of all keys"},
});

// What cxxopts puts between quotation marks in `text`; "" where it does not.
std::string quoted_in(const std::string& text) {
  const std::string open = "\u2018", close = "\u2019";
  const size_t begin = text.find(open), end = text.rfind(close);
  if (begin == std::string::npos || end == std::string::npos) return "";
  return text.substr(begin + open.size(), end - begin - open.size());
}

// Names of all options, or of those alone that take a value.
std::vector<std::string> option_names(const cxxopts::Options& options, bool with_value = false) {
  std::vector<std::string> names;
  for (const auto& group : options.groups()) {
    for (const auto& option : options.group_help(group).options) {
      if (with_value && option.is_boolean) continue;
      names.insert(names.end(), option.l.begin(), option.l.end());
    }
  }
  return names;
}

bool takes(cxxopts::Options& options, const std::string& name, const std::string& value) {
  const std::string argument = "--" + name + "=" + value;
  const std::array argv = {"crnet", argument.c_str()};
  try {
    static_cast<void>(options.parse(static_cast<int>(argv.size()), argv.data()));
    return true;
  } catch (const cxxopts::exceptions::incorrect_argument_type&) {
    return false;
  } catch (const cxxopts::exceptions::exception&) {  // there is no such option
    return true;
  }
}

// cxxopts keeps an option's type to itself, but can be asked.
std::string expected_of(cxxopts::Options& options, const std::string& name,
                        const std::string& value) {
  if (takes(options, name, "0.5")) return "a number";
  const bool is_negative = value.starts_with('-');
  if (value.find_first_not_of("0123456789", is_negative ? 1 : 0) == std::string::npos &&
      value.size() > 9) {
    return is_negative ? "a larger number" : "a smaller number";
  }
  return takes(options, name, "-1") ? "a whole number" : "a whole number of at least 0";
}

// An option of `argv` that does not take its value, or a flag that has one.
std::string wrong_value(cxxopts::Options& options, std::span<char*> argv) {
  const auto with_value = option_names(options, /*with_value=*/true);
  for (size_t i = 1; i < argv.size(); ++i) {
    const std::string argument = argv[i];
    if (!argument.starts_with("--")) continue;
    const size_t equals = argument.find('=');
    const std::string name = argument.substr(2, equals - 2);
    const bool is_flag = std::find(with_value.begin(), with_value.end(), name) == with_value.end();
    std::string value;
    if (equals != std::string::npos) {
      value = argument.substr(equals + 1);
    } else if (!is_flag && i + 1 < argv.size()) {
      value = argv[++i];
    } else {
      continue;
    }
    if (takes(options, name, value)) continue;
    if (is_flag) return "expected --" + name + " alone, got " + argument;
    return "--" + name + ": expected " + expected_of(options, name, value) + ", got " +
           (value.empty() ? "nothing" : value);
  }
  return "";
}

// What is wrong with `argv`, in crnet's words; "" where they are not known.
std::string problem_of(cxxopts::Options& options, std::span<char*> argv,
                       const cxxopts::exceptions::exception& error) {
  const std::string quoted = quoted_in(error.what());
  if (dynamic_cast<const cxxopts::exceptions::incorrect_argument_type*>(&error) != nullptr) {
    return wrong_value(options, argv);
  }
  if (quoted.empty()) return "";
  const bool is_letter = quoted.size() == 1;
  const std::string word = (is_letter ? "-" : "--") + quoted;
  if (dynamic_cast<const cxxopts::exceptions::missing_argument*>(&error) != nullptr) {
    return word + ": expected a value after it, got none";
  }
  if (dynamic_cast<const cxxopts::exceptions::no_such_option*>(&error) != nullptr) {
    const auto names = option_names(options);
    const std::string nearest = is_letter ? "" : nearest_match(quoted, names);
    if (!nearest.empty()) return "unknown option " + word + "; did you mean --" + nearest + "?";
    const bool sets = std::find(names.begin(), names.end(), "set") != names.end();
    return "unknown option " + word + (sets ? "; what a recipe has is set by --set key=value" : "");
  }
  return "";
}

// An argument that nothing takes.
std::string surplus_argument(const std::string& surplus, std::span<char*> argv) {
  for (size_t i = 1; i + 2 < argv.size(); ++i) {
    const std::string option = argv[i], key = argv[i + 1];
    if (option == "--set" && argv[i + 2] == surplus && key.find('=') == std::string::npos) {
      return "--set: expected " + key + "=" + surplus + ", got " + key + " " + surplus;
    }
  }
  return "expected no further argument, got " + surplus;
}

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

cxxopts::ParseResult parse_arguments(cxxopts::Options& options, int argc, char** argv,
                                     bool takes_further) {
  const std::string command = argv[0];
  try {
    auto parsed = options.parse(argc, argv);
    if (!takes_further && !parsed.unmatched().empty()) {
      throw UsageError(
          "[" + command + "] " +
          surplus_argument(parsed.unmatched().front(), {argv, static_cast<size_t>(argc)}) +
          "; see crnet " + command + " --help");
    }
    return parsed;
  } catch (const cxxopts::exceptions::exception& error) {
    std::string problem = problem_of(options, {argv, static_cast<size_t>(argc)}, error);
    if (problem.empty()) problem = error.what();
    const char* see = problem.ends_with('?') ? " See crnet " : "; see crnet ";
    throw UsageError("[" + command + "] " + problem + see + command + " --help");
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
