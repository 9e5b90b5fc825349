// The folder of a run and the files that describe it.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "crnet/config/load.h"
#include "crnet/core/file.h"
#include "crnet/dist/group.h"
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

  /// Holds the folder for this process, where it is there. Throws Error where another holds it.
  [[nodiscard]] detail::Descriptor lock_if_there() const;
  /// Makes the folder and holds it. Throws Error too where another process made a run in it since
  /// lock_if_there() found none.
  [[nodiscard]] detail::Descriptor make_and_lock() const;

  /// Renames the lines of an attempt that left no checkpoint to metrics-before-restart-N.jsonl;
  /// nothing where there are none. Throws Error where it cannot.
  [[nodiscard]] std::optional<std::filesystem::path> set_aside_metrics() const;

  /// Writes config.yaml and run.json; where the run goes on in this folder, after `resumed_step`
  /// updates, config-from-STEP.yaml and run-from-STEP.json beside them. Returns the configuration's
  /// file. Throws Error where it cannot.
  [[nodiscard]] std::filesystem::path describe_run(const LoadedConfig<RunConfig>& loaded,
                                                   const Runtime& runtime, double peak_flops,
                                                   const Group& group,
                                                   std::optional<int64_t> resumed_step) const;
};

}  // namespace crnet
