#include "cli/runtime_options.h"

#include "crnet/core/error.h"
#include "crnet/core/format.h"

namespace crnet {
namespace {

template <class Enum>
Enum parse_choice(const std::string& option, const std::string& text) {
  std::string allowed;
  for (const auto& entry : EnumNames<Enum>::kValues) {
    if (text == entry.name) return entry.value;
    allowed += (allowed.empty() ? "" : ", ") + std::string(entry.name);
  }
  throw UsageError("[crnet] --" + option + ": expected one of " + allowed + ", got " + text);
}

}  // namespace

Runtime runtime_from(const cxxopts::ParseResult& parsed) {
  TrainConfig config;
  config.device = parse_choice<DeviceChoice>("device", parsed["device"].as<std::string>());
  config.precision =
      parse_choice<PrecisionChoice>("precision", parsed["precision"].as<std::string>());
  config.threads = parsed["threads"].as<int64_t>();
  if (config.threads < 0 || config.threads > 4096) {
    throw UsageError(format("[crnet] --threads: expected 0 to 4096, got %ld",
                            static_cast<long>(config.threads)));
  }
  return select_runtime(config);
}

}  // namespace crnet
