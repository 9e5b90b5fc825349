// The folder of a run and the files that describe it.
#pragma once

#include <filesystem>
#include <string>

#include "crnet/config/load.h"
#include "crnet/core/file.h"
#include "crnet/train/device.h"
#include "crnet/train/run_config.h"

namespace crnet {

struct RunFolder {
  std::filesystem::path path;

  [[nodiscard]] std::filesystem::path checkpoints() const { return path / "checkpoints"; }
  [[nodiscard]] std::filesystem::path metrics() const { return path / "metrics.jsonl"; }
  [[nodiscard]] std::filesystem::path picture() const { return path / "loss.svg"; }
  [[nodiscard]] std::filesystem::path log() const { return path / "train.log"; }
  [[nodiscard]] std::filesystem::path tokenizer() const { return path / "tokenizer.model"; }

  /// Whether a run has written here before.
  [[nodiscard]] bool is_used() const;

  /// Writes config.yaml and run.json, or for a part that goes on from a
  /// later step run-from-STEP.json. Returns the configuration's file. Throws Error where it cannot.
  [[nodiscard]] std::filesystem::path describe_run(const LoadedConfig<RunConfig>& loaded,
                                                   const Runtime& runtime, double peak_flops,
                                                   int64_t first_step) const;
};

}  // namespace crnet
