#include "train/run_folder.h"

#include <torch/headeronly/version.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <ctime>
#include <nlohmann/json.hpp>

#include "crnet/config/print.h"
#include "crnet/core/error.h"
#include "crnet/core/file.h"
#include "crnet/core/format.h"
#include "crnet/core/host.h"
#include "crnet/core/version.h"
#include "crnet/model/costs.h"

namespace crnet {
namespace {

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  char text[32] = {};
  std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", std::gmtime(&now));
  return text;
}

std::string run_json(const RunConfig& config, const Runtime& runtime, double peak_flops,
                     const Group& group, int64_t first_step) {
  const nlohmann::ordered_json json = {
      {"crnet_version", kVersion},
      {"torch_version", TORCH_VERSION},
      {"started", utc_now()},
      {"first_step", first_step},
      {"host", host_name()},
      {"hardware", describe(runtime)},
      {"cpu", cpu_name()},
      {"device", runtime.device.str()},
      {"precision", dtype_name(runtime.compute_dtype)},
      {"threads", runtime.threads},
      {"processes", group.size()},
      {"launch", describe(group.launch())},
      {"backend", group.backend()},
      {"measured_peak_flops", peak_flops},
      {"parameters", count_parameters(config.model).total()},
      {"training_flops_per_token",
       count_flops(config.model, config.data.sequence_length).training()}};
  return json.dump(2) + "\n";
}

[[noreturn]] void fail_to(const char* what, const std::filesystem::path& folder,
                          const std::string& reason) {
  throw Error(
      format("[train] train.run_dir: expected to %s %s, got: %s; choose another with --set "
             "train.run_dir=FOLDER",
             what, folder.c_str(), reason.c_str()));
}

void make_writable(const std::filesystem::path& folder) {
  std::error_code failure;
  std::filesystem::create_directories(folder, failure);
  if (failure) fail_to("make the folder", folder, failure.message());
  if (::access(folder.c_str(), W_OK | X_OK) != 0) {
    fail_to("write into", folder, std::strerror(errno));
  }
}

}  // namespace

bool RunFolder::is_used() const {
  return std::filesystem::exists(metrics()) || std::filesystem::exists(checkpoints());
}

detail::Descriptor RunFolder::lock_if_there() const {
  return std::filesystem::is_directory(path) ? lock_folder(path) : detail::Descriptor();
}

detail::Descriptor RunFolder::make_and_lock() const {
  make_writable(path);
  auto lock = lock_folder(path);
  if (!is_used()) return lock;
  throw Error("[train] train.run_dir: expected " + path.string() +
              " to be new still, got a run that another process has begun there; choose another "
              "with --set train.run_dir=FOLDER");
}

std::optional<std::filesystem::path> RunFolder::set_aside_metrics() const {
  std::error_code absent;
  const auto bytes = std::filesystem::file_size(metrics(), absent);
  if (absent || bytes == 0) return std::nullopt;
  std::filesystem::path aside;
  long number = 0;
  do {
    aside = path / format("metrics-before-restart-%ld.jsonl", ++number);
  } while (std::filesystem::exists(aside));
  rename_durably(metrics(), aside);
  return aside;
}

std::filesystem::path RunFolder::describe_run(const LoadedConfig<RunConfig>& loaded,
                                              const Runtime& runtime, double peak_flops,
                                              const Group& group,
                                              std::optional<int64_t> resumed_step) const {
  make_writable(path);
  // A folder's first part may go on from another folder's checkpoint.
  const bool is_later_part = resumed_step && std::filesystem::exists(path / "config.yaml");
  const std::string part =
      is_later_part ? format("-from-%ld", static_cast<long>(*resumed_step)) : "";
  auto config = path / ("config" + part + ".yaml");
  write_text_atomic(config, to_yaml(loaded));
  write_text_atomic(path / ("run" + part + ".json"),
                    run_json(loaded.config, runtime, peak_flops, group, resumed_step.value_or(0)));
  return config;
}

}  // namespace crnet
