// Checkpoints: what a run needs to go on exactly where it was, and what eval and generate need.
//
//   checkpoints/step-00000100/
//     model.safetensors       weights, fp32
//     optimizer.safetensors   the optimizer's tensors
//     tokenizer.model         a copy, so that the folder serves on its own
//     manifest.json           state, configs, and size and XXH3 of each file above
//
// Of a run of several processes each writes a share of the tensors (see tensor_pieces.h):
// model.shard-00000-of-00004.safetensors, optimizer.shard-00000-of-00004.safetensors, … Any number
// of processes reads them.
//
// A checkpoint is written beside as `.tmp-step-…`, flushed to the disk file by file, and renamed:
// under its final name it is complete, whenever a process or the machine stops.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "crnet/core/file.h"
#include "crnet/core/log.h"
#include "crnet/interop/tensor_pieces.h"

namespace crnet {

/// Where a run stands, apart from its tensors. The JSON texts are kept by value, not by layout.
struct TrainState {
  int64_t step = 0;              ///< Optimizer steps done.
  int64_t samples_consumed = 0;  ///< The loader's position.
  int64_t tokens_seen = 0;
  int64_t skipped_steps = 0;  ///< Steps without an update, for a loss or gradient not finite.
  std::string rng_state;      ///< Any bytes.
  std::string crnet_version;
  std::string model_config = "{}";  ///< JSON.
  std::string run_config = "{}";    ///< JSON.
  std::string extra = "{}";         ///< JSON: whatever else the trainer wants back.

  bool operator==(const TrainState&) const = default;
};

/// What is saved. Tensors may be on any device and are only read.
struct CheckpointContent {
  std::vector<TensorPiece> model;
  std::vector<TensorPiece> optimizer;
  TrainState state;
  std::filesystem::path tokenizer;  ///< The SentencePiece model to copy; empty for none.
};

/// Names within a checkpoint's folder, and what the files have to hold.
using FileDigests = std::map<std::string, FileDigest>;

/// A checkpoint whose files have been verified.
struct Checkpoint {
  std::filesystem::path folder;
  TrainState state;
  FileDigests files;

  [[nodiscard]] TensorFiles model() const;
  [[nodiscard]] TensorFiles optimizer() const;
  /// Throws Error where the checkpoint was saved without one.
  [[nodiscard]] std::filesystem::path tokenizer() const;
};

/// Reads the manifest and all files once and checks sizes and hashes. Throws Error that names the
/// file and the reason: no manifest, one of another format version, a missing file, a changed byte.
/// Of `parts` processes that share the reading each checks the hashes of its own part of the files.
[[nodiscard]] Checkpoint open_checkpoint(const std::filesystem::path& folder, int part = 0,
                                         int parts = 1);

/// Writes one process's share of a checkpoint into a folder that CheckpointStore::prepare() made.
/// Throws Error; also, between two tensors, where `stop` asks to stop.
FileDigests write_share(const std::filesystem::path& folder, const CheckpointContent& content,
                        int part, int parts, const std::stop_token& stop = {});

/// The checkpoints of one run. One process writes; any number may read meanwhile.
class CheckpointStore {
 public:
  /// Creates nothing yet. `keep_last` ≥ 1 newest ones stay, and so does every step that
  /// `keep_every` divides; 0 for none of these.
  explicit CheckpointStore(std::filesystem::path folder, int64_t keep_last = 1,
                           int64_t keep_every = 0);

  /// Saves under the state's step, replacing a checkpoint of that step; removes what killed runs
  /// left over before, and what need not be kept once the new one is on the disk. Returns the new
  /// checkpoint's folder. Throws Error with path and reason; then the earlier checkpoints are as
  /// they were and nothing of the new one is left.
  std::filesystem::path save(const CheckpointContent& content);

  /// save() in parts, where several processes write: makes the folder to write into; gives it the
  /// manifest and its final name, and prunes; or removes it. Each throws as save() does.
  [[nodiscard]] std::filesystem::path prepare(int64_t step) const;
  std::filesystem::path commit(const CheckpointContent& content, FileDigests files);
  void abandon(int64_t step) const;

  /// The folders by step, oldest first, not verified. Empty where there is no store yet.
  [[nodiscard]] std::vector<std::filesystem::path> list() const;

  /// The newest checkpoint that open_checkpoint accepts. Hands `warn` a line for each newer one
  /// that it refuses, with the reason; removes nothing.
  [[nodiscard]] std::optional<Checkpoint> newest_sound(
      const std::function<void(std::string_view)>& warn = log::warn);
  /// Pruning won't count this one as kept.
  void refuse(const std::filesystem::path& folder) { refused_.insert(folder); }

 private:
  [[nodiscard]] std::filesystem::path target(int64_t step) const;
  template <class Work>
  auto saving(int64_t step, const Work& work) const;
  void remove_leftovers() const;
  void prune(int64_t newest_step) const;

  std::filesystem::path folder_;
  int64_t keep_last_;
  int64_t keep_every_;
  std::set<std::filesystem::path> refused_;
};

}  // namespace crnet
