#include "crnet/core/log.h"

#include <spdlog/sinks/ansicolor_sink.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/spdlog.h>

#include <memory>
#include <mutex>
#include <string>

#include "crnet/core/error.h"
#include "crnet/core/status_line.h"

namespace crnet::log {
namespace {

spdlog::logger& logger() {
  static const auto instance = [] {
    auto sink = std::make_shared<spdlog::sinks::ansicolor_stderr_sink_mt>();
    sink->set_pattern("%H:%M:%S %^%l%$ %v");
    auto made = std::make_shared<spdlog::logger>("crnet", std::move(sink));
    made->flush_on(spdlog::level::info);
    return made;
  }();
  return *instance;
}

// spdlog's list of sinks is not for changes while another thread writes.
std::mutex mutex;

void write(spdlog::level::level_enum level, std::string_view message) {
  const std::lock_guard lock(mutex);
  detail::hide_status_line();
  logger().log(level, spdlog::string_view_t(message.data(), message.size()));
  detail::show_status_line();
}

bool is_attached(const std::filesystem::path& path) {
  for (const auto& sink : logger().sinks()) {
    const auto* file = dynamic_cast<const spdlog::sinks::basic_file_sink_mt*>(sink.get());
    if (file != nullptr && file->filename() == path.string()) return true;
  }
  return false;
}

}  // namespace

void info(std::string_view message) {
  write(spdlog::level::info, message);
}
void warn(std::string_view message) {
  write(spdlog::level::warn, message);
}
void error(std::string_view message) {
  write(spdlog::level::err, message);
}

void keep_to_errors() {
  logger().set_level(spdlog::level::err);
}

void add_file(const std::filesystem::path& path) {
  const std::lock_guard lock(mutex);
  if (is_attached(path)) return;
  try {
    auto sink = std::make_shared<spdlog::sinks::basic_file_sink_mt>(path.string());
    sink->set_pattern("%Y-%m-%d %H:%M:%S %l %v");
    logger().sinks().push_back(std::move(sink));
  } catch (const spdlog::spdlog_ex& failure) {
    throw Error("[log] expected to append to " + path.string() + ", got: " + failure.what());
  }
}

void close_files() {
  const std::lock_guard lock(mutex);
  logger().sinks().resize(1);
}

}  // namespace crnet::log
