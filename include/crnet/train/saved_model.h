// A model out of a checkpoint, for evaluation and generation.
#pragma once

#include <filesystem>

#include "crnet/interop/safetensors.h"
#include "crnet/model/causal_lm.h"
#include "crnet/train/checkpoint.h"
#include "crnet/train/device.h"

namespace crnet {

/// Parameters and, where β is fixed, its values: what the files hold of a model. The tensors are
/// the model's own.
NamedTensors model_tensors(const CausalLMImpl& model);

struct SavedModel {
  CausalLM model;
  Checkpoint checkpoint;

  /// data.sequence_length of the run that saved it.
  [[nodiscard]] int64_t trained_sequence_length() const;
};

/// Loads and verifies a checkpoint: its folder, or a run's folder, whose newest sound checkpoint is
/// taken. The model is on `runtime`'s device in its precision. Throws UsageError where there
/// is no such path, Error naming what is wrong with it.
SavedModel load_model(const std::filesystem::path& path, const Runtime& runtime);

}  // namespace crnet
