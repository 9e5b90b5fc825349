#include "crnet/train/saved_model.h"

#include <nlohmann/json.hpp>

#include "config/json.h"
#include "crnet/core/error.h"

namespace crnet {
namespace {

Checkpoint find_checkpoint(const std::filesystem::path& path) {
  if (!std::filesystem::exists(path)) {
    throw UsageError("[checkpoint] expected a checkpoint or a run's folder, got " + path.string() +
                     ", which does not exist");
  }
  if (!std::filesystem::exists(path / "checkpoints")) return open_checkpoint(path);
  CheckpointStore store(path / "checkpoints");
  auto newest = store.newest_sound();
  if (newest) return *newest;
  const bool has_none = store.list().empty();
  throw Error("[checkpoint] expected a sound checkpoint in " + (path / "checkpoints").string() +
              (has_none ? ", got none at all; let the run save one, or take another run"
                        : ", got damaged ones alone; take another run, or train anew in another "
                          "train.run_dir"));
}

}  // namespace

NamedTensors model_tensors(const CausalLMImpl& model) {
  NamedTensors tensors;
  for (const auto& item : model.named_parameters()) tensors.emplace_back(item.key(), item.value());
  for (const auto& item : model.named_buffers()) tensors.emplace_back(item.key(), item.value());
  return tensors;
}

int64_t SavedModel::trained_sequence_length() const {
  return nlohmann::json::parse(checkpoint.state.run_config).at("data").at("sequence_length");
}

SavedModel load_model(const std::filesystem::path& path, const Runtime& runtime) {
  Checkpoint checkpoint = find_checkpoint(path);
  const auto config = from_json<ModelConfig>(nlohmann::json::parse(checkpoint.state.model_config),
                                             (checkpoint.folder / "manifest.json").string());
  CausalLM model(config, runtime.device);
  load_into_named(checkpoint.model(), model_tensors(*model));
  model->set_compute_dtype(runtime.compute_dtype);
  // No master weights are needed: cast once, not for every token.
  for (auto& parameter : model->parameters()) {
    if (parameter.dim() == 2) parameter.set_data(parameter.detach().to(runtime.compute_dtype));
  }
  return {model, std::move(checkpoint)};
}

}  // namespace crnet
