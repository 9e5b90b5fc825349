// crnet config: the resolved run with the source of every value, or the schema of all keys.
#include <cstdio>
#include <cxxopts.hpp>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "config/json.h"
#include "crnet/config/print.h"
#include "crnet/core/error.h"
#include "crnet/train/run_config.h"

namespace crnet {

namespace {

cxxopts::Options config_options() {
  cxxopts::Options options("crnet config",
                           "Prints a run's configuration and where each value came from.");
  options.add_options()("config", "recipe or model file, YAML or JSON",
                        cxxopts::value<std::string>())(
      "set", "override: key=value (may be repeated)", cxxopts::value<std::string>())(
      "json", "print the resolved configuration as JSON")(
      "schema", "print the JSON Schema of every key")("h,help", "this text and all keys");
  options.parse_positional({"config"});
  options.custom_help("CONFIG [--set key=value ...] [--json]  |  --schema").positional_help("");
  return options;
}

void print(const std::string& text) {
  std::fputs(text.c_str(), stdout);
}

void print_config(const cxxopts::ParseResult& parsed) {
  if (parsed.count("config") == 0) {
    throw UsageError(
        "[config] expected a file, got none; crnet config configs/recipes/quickstart.yaml");
  }
  const auto loaded = load_run_config(parsed["config"].as<std::string>(), overrides_in(parsed));
  print(parsed.count("json") != 0 ? to_json(loaded.config).dump(2) + "\n" : to_yaml(loaded));
}

}  // namespace

int run_config(int argc, char** argv) {
  auto options = config_options();
  const auto parsed = parse_arguments(options, argc, argv);
  RunConfig defaults;
  if (parsed.count("help") != 0) {
    print(options.help() + "\nKeys [allowed; default]:\n" + describe_keys(bind_fields(defaults)));
  } else if (parsed.count("schema") != 0) {
    print(json_schema(bind_fields(defaults), "crnet run").dump(2) + "\n");
  } else {
    print_config(parsed);
  }
  return 0;
}

}  // namespace crnet
