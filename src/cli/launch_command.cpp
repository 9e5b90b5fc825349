// crnet launch: another command in several processes on this machine.
#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <optional>
#include <span>
#include <string_view>

#include "cli/commands.h"
#include "crnet/core/error.h"
#include "crnet/core/format.h"
#include "crnet/dist/supervisor.h"

namespace crnet {
namespace {

constexpr const char* kExample = "crnet launch --nproc 4 train recipe.yaml";

cxxopts::Options launch_options() {
  cxxopts::Options options(
      "crnet launch",
      "Runs a command in several processes on this machine, which divide the work.");
  options.add_options()("nproc", "number of processes", cxxopts::value<int>())(
      "max-restarts", "times to start all anew after a failure; train goes on by --resume auto",
      cxxopts::value<int>()->default_value("0"))("h,help", "this text");
  options.custom_help("--nproc N [--max-restarts K] COMMAND ...").positional_help("");
  return options;
}

// Up to the launched command, whose options are its own.
int count_own_arguments(int argc, char** argv) {
  int count = 1;
  while (count < argc && argv[count][0] == '-') {
    const std::string_view option = argv[count];
    count += option == "--nproc" || option == "--max-restarts" ? 2 : 1;
  }
  return std::min(count, argc);
}

// The configuration of a training too, so that its mistakes are said once and not by every process.
void check_command(std::span<char*> words, int num_processes) {
  if (words.empty()) {
    throw UsageError("[launch] expected a command to launch, got none; for example " +
                     std::string(kExample));
  }
  const std::string_view name = find_command(words.front()).name;
  if (name == "launch") {
    throw UsageError("[launch] expected a command to launch, got launch; once is enough: " +
                     std::string(kExample));
  }
  if (name == "train") {
    check_train(static_cast<int>(words.size()), words.data(), num_processes);
  }
}

std::vector<std::string> argv_of(std::span<char*> words) {
  std::vector<std::string> arguments = {program_invocation_name};
  arguments.insert(arguments.end(), words.begin(), words.end());
  return arguments;
}

// The value of --resume.
std::optional<std::string> resume_in(const std::vector<std::string>& arguments) {
  constexpr std::string_view kOption = "--resume";
  for (auto word = arguments.begin(); word != arguments.end(); ++word) {
    if (*word == kOption && word + 1 != arguments.end()) return word[1];
    if (word->starts_with("--resume=")) return word->substr(kOption.size() + 1);
  }
  return std::nullopt;
}

// A training's folder is in use by then, which is refused without --resume.
std::vector<std::string> restarted(std::vector<std::string> arguments) {
  if (arguments[1] == "train" && !resume_in(arguments)) {
    arguments.insert(arguments.begin() + 2, {"--resume", "auto"});
  }
  return arguments;
}

// Of a training alone. One that began with --resume CHECKPOINT goes on from there or by auto, which
// depends on whether it has saved: no command serves both.
std::string how_to_go_on(std::span<char*> own, const std::vector<std::string>& again) {
  if (again[1] != "train" || resume_in(again) != "auto") return "";
  std::vector<std::string> words = {again.front()};
  words.insert(words.end(), own.begin(), own.end());
  words.insert(words.end(), again.begin() + 1, again.end());
  std::string advice = "to go on from the newest checkpoint, if there is one:";
  for (const auto& word : words) advice.append(" ").append(shell_word(word));
  return advice;
}

}  // namespace

int run_launch(int argc, char** argv) {
  const int num_own = count_own_arguments(argc, argv);
  auto options = launch_options();
  const auto parsed = parse_arguments(options, num_own, argv);
  if (parsed.count("help") != 0) {
    std::printf("%s", options.help().c_str());
    return 0;
  }
  if (parsed.count("nproc") == 0) {
    throw UsageError("[launch] expected --nproc, the number of processes, got none; for example " +
                     std::string(kExample));
  }
  const std::span words(argv + num_own, argv + argc);
  SuperviseOptions supervised;
  supervised.num_processes = parsed["nproc"].as<int>();
  supervised.max_restarts = parsed["max-restarts"].as<int>();
  check_numbers(supervised);
  check_command(words, supervised.num_processes);
  supervised.command = argv_of(words);
  supervised.restart_command = restarted(supervised.command);
  supervised.advice = how_to_go_on({argv, argv + num_own}, supervised.restart_command);
  return supervise(supervised);
}

}  // namespace crnet
