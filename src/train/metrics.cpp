#include "crnet/train/metrics.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "crnet/core/error.h"
#include "crnet/core/format.h"
#include "crnet/core/log.h"

namespace crnet {
namespace {

using Json = nlohmann::ordered_json;

// JSON has no NaN: null stands for it.
Json number(double value) {
  return std::isfinite(value) ? Json(value) : Json(nullptr);
}

double value_or_nan(const Json& line, const char* key) {
  const auto found = line.find(key);
  const bool is_number = found != line.end() && found->is_number();
  return is_number ? found->get<double>() : std::numeric_limits<double>::quiet_NaN();
}

[[noreturn]] void fail(const std::filesystem::path& path) {
  throw Error(
      format("[train] expected to append to %s, got: %s", path.c_str(), std::strerror(errno)));
}

}  // namespace

MetricsFile::MetricsFile(std::filesystem::path path, int64_t last_step) : path_(std::move(path)) {
  std::string kept;
  if (std::filesystem::exists(path_)) {
    std::ifstream old(path_);
    for (std::string text; std::getline(old, text);) {
      const Json line = Json::parse(text, nullptr, /*allow_exceptions=*/false);
      if (!line.is_object() || !line.contains("step")) continue;  // a torn last line
      const auto step = line["step"].get<int64_t>();
      if (step > last_step) continue;
      kept += text + "\n";
      if (line.value("kind", "") == "step") {
        add_to_curve(step, value_or_nan(line, "loss"), value_or_nan(line, "smoothed_loss"));
      } else {
        curve_.validation_steps.push_back(step);
        curve_.validation.push_back(value_or_nan(line, "loss"));
      }
    }
  }
  write_text_atomic(path_, kept);
  file_ = detail::Descriptor(::open(path_.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC));
  if (file_.get() < 0) fail(path_);
}

void MetricsFile::add_to_curve(int64_t step, double loss, double smoothed) {
  curve_.steps.push_back(step);
  curve_.train.push_back(loss);
  curve_.smoothed.push_back(smoothed);
}

void MetricsFile::append(const std::string& line) {
  waiting_ += line + "\n";
  try {
    flush();
    has_warned_ = false;
  } catch (const Error& failure) {
    if (std::exchange(has_warned_, true)) return;
    log::warn(std::string(failure.what()) + "; its lines wait for the next");
  }
}

void MetricsFile::flush() {
  while (!waiting_.empty()) {
    const ssize_t written = ::write(file_.get(), waiting_.data(), waiting_.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail(path_);
    waiting_.erase(0, static_cast<size_t>(written));
  }
}

void MetricsFile::write(const StepMetrics& m) {
  add_to_curve(m.step, m.loss, m.smoothed_loss);
  Json line = {{"kind", "step"},
               {"step", m.step},
               {"loss", number(m.loss)},
               {"smoothed_loss", number(m.smoothed_loss)},
               {"lr", m.lr},
               {"grad_norm", number(m.grad_norm)},
               {"skipped", m.skipped},
               {"tokens_seen", m.tokens_seen},
               {"seconds", m.seconds},
               {"tokens_per_second", m.tokens_per_second},
               {"peak_share", m.peak_share},
               {"memory_bytes", m.memory_bytes}};
  if (m.replayed_spans) line["replayed_spans"] = *m.replayed_spans;
  if (m.recompute_drift) line["recompute_drift"] = number(*m.recompute_drift);
  append(line.dump());
}

void MetricsFile::write(const EvalMetrics& m) {
  curve_.validation_steps.push_back(m.step);
  curve_.validation.push_back(m.loss);
  append(Json{{"kind", "validation"},
              {"step", m.step},
              {"loss", number(m.loss)},
              {"perplexity", number(m.perplexity)},
              {"tokens", m.tokens}}
             .dump());
}

}  // namespace crnet
