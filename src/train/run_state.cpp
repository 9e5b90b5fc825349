#include "train/run_state.h"

#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "config/json.h"
#include "crnet/core/error.h"
#include "crnet/core/file.h"
#include "crnet/core/format.h"
#include "crnet/core/log.h"
#include "crnet/core/version.h"
#include "crnet/train/saved_model.h"
#include "train/run_plan.h"

namespace crnet {
namespace {

using Json = nlohmann::json;

std::string rng_state() {
  at::Generator generator = at::detail::getDefaultCPUGenerator();
  const torch::Tensor state = generator.get_state();
  return {static_cast<const char*>(state.const_data_ptr()), state.nbytes()};
}

void set_rng_state(const std::string& bytes) {
  torch::Tensor state = torch::empty({static_cast<int64_t>(bytes.size())}, torch::kUInt8);
  std::memcpy(state.mutable_data_ptr(), bytes.data(), bytes.size());
  at::Generator generator = at::detail::getDefaultCPUGenerator();
  generator.set_state(state);
}

// What may differ between the parts of a run without changing its numbers.
bool is_free_to_change(const std::string& key) {
  return key == "/train/run_dir" || key == "/train/log_every" || key == "/train/eval_every" ||
         key == "/train/eval_tokens" || key == "/train/cuda_graphs" || key == "/data/verify" ||
         key == "/recompute/check_every" || key.starts_with("/checkpoint/") ||
         (key.starts_with("/dist/") && key != "/dist/gradients");
}

Json spans_to_json(const std::set<BlockStack::Span>& spans) {
  Json list = Json::array();
  for (const auto& span : spans) list.push_back({span.first, span.last, span.projection});
  return list;
}

std::set<BlockStack::Span> spans_from_json(const Json& list) {
  std::set<BlockStack::Span> spans;
  for (const auto& span : list) spans.insert({span.at(0), span.at(1), span.at(2)});
  return spans;
}

// Equal shapes do not make equal models: heads or theta may differ.
void refuse_another_model(const Checkpoint& checkpoint, const ModelConfig& model) {
  const Json saved = Json::parse(checkpoint.state.model_config), wanted = Json(to_json(model));
  for (const auto& [key, value] : wanted.items()) {
    if (saved.contains(key) && saved[key] == value) continue;
    throw UsageError("[train] model." + key + ": expected " +
                     (saved.contains(key) ? saved[key].dump() : "nothing") + " as in " +
                     checkpoint.folder.string() + ", got " + value.dump() +
                     "; the checkpoint is of another model");
  }
}

// The position in the data means nothing in others: samples would come twice or never.
void refuse_other_data(const Checkpoint& checkpoint, const std::string& path,
                       const DataIndex& data) {
  if (digest_file(checkpoint.tokenizer()).xxh3 != data.tokenizer_hash) {
    throw UsageError("[train] data.path: expected data of the tokenizer of " +
                     checkpoint.folder.string() + ", got " + path + ", which is of another");
  }
  const std::string now = data.content_hash();
  // Checkpoints of before this was recorded have none.
  const std::string trained_on = Json::parse(checkpoint.state.extra).value("data", now);
  if (trained_on == now) return;
  throw UsageError("[train] data.path: expected the data that " + checkpoint.folder.string() +
                   " was trained on (" + trained_on + "), got " + path + " with other tokens (" +
                   now + "); name those data, prepare them as they were, or start a new run");
}

NamedTensors buffers_of(const CausalLMImpl& model) {
  NamedTensors buffers;
  for (const auto& item : model.named_buffers()) buffers.emplace_back(item.key(), item.value());
  return buffers;
}

}  // namespace

RunState::RunState(const RunConfig& config, const Runtime& runtime, RecomputePlan plan,
                   Group& group)
    : ParallelModel(config.model, config.dist, runtime, group),
      pass(*model, *parallel, runtime.device),
      optimizer(parallel->pieces(), config.optimizer) {
  model->set_recompute(std::move(plan));
  if (config.train.cuda_graphs) pass.record(group.size());
}

void RunState::restore(const Checkpoint& checkpoint, const RunConfig& config,
                       const DataIndex& data) {
  refuse_another_model(checkpoint, config.model);
  refuse_other_data(checkpoint, config.data.path, data);
  const TensorFiles weights = checkpoint.model(), moments = checkpoint.optimizer();
  auto weight_specs = specs();
  for (const auto& [name, buffer] : buffers_of(*model)) {
    weight_specs.push_back({name, buffer.sizes().vec(), buffer.scalar_type()});
  }
  weights.expect(weight_specs);
  moments.expect(AdamW::state_specs(specs()));
  for (const auto& p : pieces()) weights.read(p.name, p.begin, p.values);
  for (const auto& [name, buffer] : buffers_of(*model)) weights.read(name, 0, buffer);
  for (const auto& p : optimizer.state()) moments.read(p.name, p.begin, p.values);
  optimizer.state_loaded();
  const TrainState& state = checkpoint.state;
  step = state.step;
  samples_consumed = state.samples_consumed;
  tokens_seen = state.tokens_seen;
  skipped_steps = state.skipped_steps;
  const Json extra = Json::parse(state.extra);
  bad_steps_in_a_row = extra.value("bad_steps_in_a_row", int64_t{0});
  smoothed_loss = extra.value("smoothed_loss", 0.0);
  smoothing_weight = extra.value("smoothing_weight", 0.0);
  model->stack().set_replayed(spans_from_json(extra.value("replayed", Json::array())));
  if (!state.rng_state.empty()) set_rng_state(state.rng_state);
}

CheckpointContent RunState::capture(const RunConfig& config, const Runtime& runtime,
                                    const DataIndex& data, const std::filesystem::path& tokenizer,
                                    const Group& group) const {
  CheckpointContent content;
  const auto own_share = [&](const std::vector<TensorPiece>& pieces) {
    return share_of(pieces, parallel->copy(), parallel->copies());
  };
  const auto moments = optimizer.state();  // "updates" first
  content.model = own_share(pieces());
  content.optimizer = own_share({moments.begin() + 1, moments.end()});
  if (group.is_first()) {
    content.optimizer.push_back(moments.front());
    const auto buffers = whole_pieces(buffers_of(*model));
    content.model.insert(content.model.end(), buffers.begin(), buffers.end());
  }
  content.tokenizer = tokenizer;
  TrainState& state = content.state;
  state.step = step;
  state.samples_consumed = samples_consumed;
  state.tokens_seen = tokens_seen;
  state.skipped_steps = skipped_steps;
  state.rng_state = rng_state();
  state.crnet_version = kVersion;
  state.model_config = to_json(config.model).dump();
  state.run_config = to_json(config).dump();
  state.extra = Json{{"bad_steps_in_a_row", bad_steps_in_a_row},
                     {"smoothed_loss", smoothed_loss},
                     {"smoothing_weight", smoothing_weight},
                     {"recompute_plan", plan_to_json(model->stack().plan())},
                     {"replayed", spans_to_json(model->stack().replayed())},
                     {"data", data.content_hash()},
                     {"precision", dtype_name(runtime.compute_dtype)},
                     {"threads", runtime.threads},
                     {"processes", group.size()},
                     {"device", runtime.device.str()}}
                    .dump();
  return content;
}

void warn_of_changes(const Checkpoint& checkpoint, const RunConfig& config, const Runtime& runtime,
                     int num_processes) {
  const Json before = Json::parse(checkpoint.state.run_config), now = Json(to_json(config));
  for (const auto& change : Json::diff(before, now)) {
    const std::string key = change["path"];
    if (is_free_to_change(key)) continue;
    const Json::json_pointer place(key);
    const std::string old = before.contains(place) ? before.at(place).dump() : "unset";
    std::string name = key.substr(1);
    std::replace(name.begin(), name.end(), '/', '.');
    log::warn("resumed with another " + name + ": " + old + " became " +
              (now.contains(place) ? now.at(place).dump() : "unset"));
  }
  const Json extra = Json::parse(checkpoint.state.extra);
  if (extra.value("device", "") != runtime.device.str()) {
    log::warn("resumed on " + runtime.device.str() + "; the checkpoint was trained on " +
              extra.value("device", "?"));
  }
  const std::string precision = extra.value("precision", "");
  if (precision != dtype_name(runtime.compute_dtype)) {
    log::warn("resumed in " + dtype_name(runtime.compute_dtype) +
              "; the checkpoint was trained in " + precision);
  }
  const int64_t before_processes = extra.value("processes", 1);
  if (before_processes != num_processes && config.train.global_batch_tokens == 0) {
    log::warn(
        format("resumed with %d processes instead of %ld: as train.global_batch_tokens is 0, a "
               "step has %ld tokens now, not %ld",
               num_processes, static_cast<long>(before_processes),
               static_cast<long>(num_processes * config.micro_batch_tokens()),
               static_cast<long>(before_processes * config.micro_batch_tokens())));
    return;
  }
  const bool same_threads = extra.value("threads", int64_t{0}) == runtime.threads;
  const bool same_processes = before_processes == num_processes;
  if (!same_threads || !same_processes) {
    log::warn(
        format("resumed with another number of %s: the numbers agree to rounding, not to the "
               "bit",
               same_processes ? "threads" : "processes"));
  }
}

}  // namespace crnet
