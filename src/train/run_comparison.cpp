#include "train/run_comparison.h"

#include <cstring>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "crnet/core/error.h"
#include "crnet/core/file.h"
#include "crnet/core/format.h"

namespace crnet {
namespace {

using Json = nlohmann::json;
// By step; a step's own line comes before a validation after it.
using MetricsLines = std::map<std::pair<int64_t, std::string>, Json>;

std::string differ(const std::string& what, const std::string& straight,
                   const std::string& resumed) {
  return what + ": " + straight + " straight, " + resumed + " resumed";
}

MetricsLines read_metrics(const std::filesystem::path& path) {
  MetricsLines lines;
  std::ifstream file(path);
  for (std::string text; std::getline(file, text);) {
    Json line = Json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (!line.is_object() || !line.contains("step")) {
      throw Error("[verify-resume] " + path.string() + ": expected lines of metrics, got " + text);
    }
    // Of the machine at that moment; and of a block whose turn starts anew with each part of a run.
    for (const char* key :
         {"seconds", "tokens_per_second", "peak_share", "memory_bytes", "recompute_drift"}) {
      line.erase(key);
    }
    const std::pair place(line["step"].get<int64_t>(), line.value("kind", ""));
    lines[place] = std::move(line);
  }
  return lines;
}

// As text, which tells -0 from 0.
std::string text_of(const Json& line, const std::string& key) {
  return line.contains(key) ? line[key].dump() : "nothing";
}

std::string compare_lines(const std::string& place, const Json& straight, const Json& resumed) {
  Json both = straight;
  both.update(resumed);
  for (const auto& [key, value] : both.items()) {
    const std::string ours = text_of(straight, key), theirs = text_of(resumed, key);
    if (ours != theirs) return differ(place + " " + key, ours, theirs);
  }
  return "";
}

std::string compare_metrics(const MetricsLines& straight, const MetricsLines& resumed,
                            int64_t& num_steps) {
  MetricsLines both = straight;
  both.insert(resumed.begin(), resumed.end());
  for (const auto& [key, line] : both) {
    const std::string place =
        format("step %ld: %s", static_cast<long>(key.first), key.second.c_str());
    const auto ours = straight.find(key), theirs = resumed.find(key);
    if (ours != straight.end() && theirs != resumed.end()) {
      const auto difference = compare_lines(place, ours->second, theirs->second);
      if (!difference.empty()) return difference;
    } else if (key.second == "step") {
      return differ(place, ours == straight.end() ? "missing" : "done",
                    theirs == resumed.end() ? "missing" : "done");
    }
    num_steps += key.second == "step" ? 1 : 0;
  }
  return "";
}

Json state_of(const TrainState& state) {
  Json run_config = Json::parse(state.run_config);
  run_config["train"].erase("run_dir");
  run_config["data"].erase("verify");
  return {{"step", state.step},
          {"samples_consumed", state.samples_consumed},
          {"tokens_seen", state.tokens_seen},
          {"skipped_steps", state.skipped_steps},
          {"generator (hash)", xxh3_hex(state.rng_state)},
          {"crnet_version", state.crnet_version},
          {"model_config", Json::parse(state.model_config)},
          {"run_config", std::move(run_config)},
          {"extra", Json::parse(state.extra)}};
}

std::string compare_states(const TrainState& straight, const TrainState& resumed) {
  const Json ours = state_of(straight).flatten(), theirs = state_of(resumed).flatten();
  return compare_lines("state", ours, theirs);
}

std::string bits_of(const std::byte* element, size_t bytes) {
  std::string text = "0x";
  for (size_t i = bytes; i-- > 0;) text += format("%02x", std::to_integer<unsigned>(element[i]));
  return text;
}

std::string value_at(const torch::Tensor& tensor, int64_t i) {
  const torch::Tensor element = tensor.view({-1})[i];
  const auto* bits = static_cast<const std::byte*>(element.const_data_ptr());
  const std::string value = element.is_floating_point() ? format("%.9g", element.item<double>())
                                                        : std::to_string(element.item<int64_t>());
  return value + " (" + bits_of(bits, element.element_size()) + ")";
}

std::string compare_values(const std::string& place, const torch::Tensor& straight,
                           const torch::Tensor& resumed) {
  const auto* ours = static_cast<const std::byte*>(straight.const_data_ptr());
  const auto* theirs = static_cast<const std::byte*>(resumed.const_data_ptr());
  if (straight.numel() == 0 || std::memcmp(ours, theirs, straight.nbytes()) == 0) return "";
  const size_t size = straight.element_size();
  int64_t first = -1, count = 0;
  for (int64_t i = 0; i < straight.numel(); ++i) {
    const size_t at = static_cast<size_t>(i) * size;
    if (std::memcmp(ours + at, theirs + at, size) == 0) continue;
    if (count++ == 0) first = i;
  }
  return differ(format("%s[%ld]", place.c_str(), static_cast<long>(first)),
                value_at(straight, first), value_at(resumed, first)) +
         format("; %ld of %ld elements differ", static_cast<long>(count),
                static_cast<long>(straight.numel()));
}

std::string describe(const TensorFiles& files, const std::string& name) {
  if (!files.contains(name)) return "none";
  const TensorSpec spec = files.spec(name);
  return describe_tensor(spec.dtype, spec.shape);
}

std::string compare_tensors(const char* kind, const TensorFiles& straight,
                            const TensorFiles& resumed, RunComparison& counts) {
  const auto names = straight.names(), others = resumed.names();
  std::set<std::string> both(names.begin(), names.end());
  both.insert(others.begin(), others.end());
  for (const auto& name : both) {
    const std::string place = std::string(kind) + " " + name;
    const std::string ours = describe(straight, name), theirs = describe(resumed, name);
    if (ours != theirs) return differ(place, ours, theirs);
    const torch::Tensor values = straight.load(name);
    const auto difference = compare_values(place, values, resumed.load(name));
    if (!difference.empty()) return difference;
    counts.num_tensors += 1;
    counts.num_elements += values.numel();
  }
  return "";
}

}  // namespace

RunComparison compare_runs(const RunRecord& straight, const RunRecord& resumed) {
  RunComparison result;
  const Checkpoint &ours = straight.checkpoint, &theirs = resumed.checkpoint;
  result.difference = compare_metrics(read_metrics(straight.metrics), read_metrics(resumed.metrics),
                                      result.num_steps);
  if (!result.difference.empty()) return result;
  result.difference = compare_states(ours.state, theirs.state);
  if (!result.difference.empty()) return result;
  result.difference = compare_tensors("weight", ours.model(), theirs.model(), result);
  if (!result.difference.empty()) return result;
  result.difference = compare_tensors("optimizer", ours.optimizer(), theirs.optimizer(), result);
  return result;
}

}  // namespace crnet
