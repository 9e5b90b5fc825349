// Checkpoints that are written while training goes on.
#pragma once

#include <atomic>
#include <filesystem>
#include <optional>
#include <string>
#include <thread>

#include "crnet/dist/group.h"
#include "crnet/train/checkpoint.h"

namespace crnet {

/// What came of a save.
struct SaveOutcome {
  std::filesystem::path folder;  ///< the checkpoint; empty where it failed
  std::string failure;           ///< why
  uint64_t bytes = 0;            ///< in its files
  double seconds = 0;            ///< from its beginning until it was complete
  double wait_seconds = 0;       ///< of these, the time for which training stood still
};

/// Every process writes its share from a copy in the host's memory, in a thread of its own; when
/// all are on the disk, the first gives the checkpoint its manifest and name. One save at a time.
class CheckpointSaver {
 public:
  CheckpointSaver(Group& group, CheckpointStore& store) : group_(group), store_(store) {}
  /// Waits for a save that is under way; of several processes, where some may be gone, drops it.
  ~CheckpointSaver();
  CheckpointSaver(const CheckpointSaver&) = delete;
  CheckpointSaver& operator=(const CheckpointSaver&) = delete;

  /// Begins a save, where none is under way; on all processes. The first one's `state` and
  /// `tokenizer` are saved. With `in_background` false there is no copy, and this process's part is
  /// written, on the first process all of it complete, when this returns.
  void begin(CheckpointContent content, bool in_background);
  /// What came of a save that has ended and was not told yet. Only the first process knows; others
  /// have an empty outcome.
  [[nodiscard]] std::optional<SaveOutcome> ended();
  /// The same, but waits for a save that is under way.
  std::optional<SaveOutcome> wait();
  /// The folder of the latest save; on all processes. Throws Error where that failed.
  [[nodiscard]] std::filesystem::path latest();

 private:
  void write(const CheckpointContent& content, const std::filesystem::path& folder,
             const std::stop_token& stop);
  void complete(const CheckpointContent& content, const std::string& own_share,
                const std::stop_token& stop);

  Group& group_;
  CheckpointStore& store_;
  int64_t num_saves_ = 0;
  SaveOutcome outcome_;  // the thread's, while one runs
  bool is_told_ = true;
  std::atomic<bool> is_running_ = false;
  std::jthread thread_;
};

}  // namespace crnet
