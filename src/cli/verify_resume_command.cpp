// crnet verify-resume: whether a resumed run of a configuration is the run that never stopped.
#include <cerrno>
#include <cstdio>

#include "cli/commands.h"
#include "crnet/train/device.h"
#include "crnet/train/verify_resume.h"

namespace crnet {
namespace {

cxxopts::Options verify_resume_options() {
  cxxopts::Options options("crnet verify-resume",
                           "Trains some steps at once, then as many with a stop and a resume in "
                           "between, and compares the two bit by bit.");
  options.add_options()("config", "recipe, YAML or JSON", cxxopts::value<std::string>())(
      "set", "override: key=value (may be repeated)", cxxopts::value<std::string>())(
      "steps", "steps of each run, at most train.steps",
      cxxopts::value<int64_t>()->default_value("20"))(
      "at", "step after which the second one stops; half of --steps where left out",
      cxxopts::value<int64_t>())(
      "dir",
      "new folder for both runs, which stay there; a temporary one beside train.run_dir "
      "where left out",
      cxxopts::value<std::string>())("keep", "leave the temporary folder")("h,help", "this text");
  options.parse_positional({"config"});
  options.custom_help("CONFIG [--steps N] [--at K] [--dir FOLDER | --keep] [--set key=value ...]")
      .positional_help("");
  return options;
}

VerifyResumeOptions options_in(const cxxopts::ParseResult& parsed) {
  VerifyResumeOptions options;
  options.steps = parsed["steps"].as<int64_t>();
  if (parsed.count("at") != 0) options.stop_after = parsed["at"].as<int64_t>();
  if (parsed.count("dir") != 0) options.folder = parsed["dir"].as<std::string>();
  options.keep = parsed.count("keep") != 0;
  options.program = program_invocation_name;
  options.launch = detect_launch();
  return options;
}

void print(const VerifyResumeResult& result) {
  if (!result.difference.empty()) {
    std::printf("different: %s", result.difference.c_str());
  } else {
    std::printf(
        "equal bit by bit: %ld steps with a resume after step %ld, %ld tensors of %ld "
        "elements, and the state",
        static_cast<long>(result.num_steps), static_cast<long>(result.stopped_after),
        static_cast<long>(result.num_tensors), static_cast<long>(result.num_elements));
  }
  std::printf("%s\n", result.folder.empty() ? "" : ("; runs in " + result.folder.string()).c_str());
}

}  // namespace

int run_verify_resume(int argc, char** argv) {
  auto options = verify_resume_options();
  const auto parsed = parse_arguments(options, argc, argv);
  if (parsed.count("help") != 0) {
    std::printf("%s", options.help().c_str());
    return 0;
  }
  keep_freed_memory();
  const auto loaded = load_run_config(required(parsed, "config", "verify-resume", "a recipe"),
                                      overrides_in(parsed));
  const VerifyResumeOptions verify_options = options_in(parsed);
  const VerifyResumeResult result = verify_resume(loaded, verify_options);
  if (verify_options.launch.rank == 0) print(result);
  return result.difference.empty() ? 0 : 1;
}

}  // namespace crnet
