// Batches for training and for validation.
//
// B batch (sequences), T sequence length.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <optional>

#include "crnet/data/dataset.h"
#include "crnet/data/window_order.h"

namespace crnet {

struct Batch {
  torch::Tensor inputs;   ///< [B, T] int64, on the CPU.
  torch::Tensor targets;  ///< [B, T] int64: the token after each input.
};

struct LoaderOptions {
  int64_t batch = 8;              ///< Sequences in a batch of one process.
  int64_t sequence_length = 256;  ///< T.
  uint64_t seed = 0;              ///< Of the shuffle.
  int64_t world_size = 1;         ///< Processes that share the samples.
  int64_t process = 0;            ///< Which of them this is.
  int64_t start_position = 0;     ///< position() to go on from.
  bool pin_memory = false;        ///< Page-locked tensors, where there is CUDA.
};

/// An endless stream of shuffled batches, the next two of which a thread of its own prepares.
///
/// There is one global sequence of samples: sample s is the window at place s mod N of the
/// WindowOrder of epoch s / N, N = TokenWindows::count(), whatever the number of processes. From
/// start_position on it is dealt out in runs of `batch` samples, to process 0, 1, …,
/// world_size − 1, 0, …: so the processes' k-th batches are together one contiguous piece of it.
class Loader {
 public:
  /// Throws UsageError for options out of range, Error where the split is shorter than one window.
  Loader(const DataSet& dataset, const LoaderOptions& options);
  ~Loader();
  Loader(Loader&&) noexcept;
  Loader& operator=(Loader&&) noexcept;

  /// The next batch of this process.
  [[nodiscard]] Batch next();

  /// Samples of the global sequence that all processes together have consumed once each has called
  /// next() as often as this one: what a checkpoint keeps, and start_position takes back.
  [[nodiscard]] int64_t position() const;

  [[nodiscard]] int64_t num_windows() const;  ///< Samples in an epoch.

  /// Returns once the thread that prepares batches rests, which it does until the next call of
  /// next().
  void wait_until_full() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// The windows of a split in their order, once: for validation. The last batch may be smaller.
class SequentialWindows {
 public:
  /// Reads at most `max_windows` windows; 0 reads all. Of several processes each reads every
  /// world_size-th batch. Throws as Loader does.
  SequentialWindows(const DataSet& dataset, int64_t batch, int64_t sequence_length,
                    int64_t max_windows = 0, int64_t world_size = 1, int64_t process = 0);

  /// Nothing after the last.
  [[nodiscard]] std::optional<Batch> next();

  /// Windows that all processes together read.
  [[nodiscard]] int64_t num_windows() const { return num_windows_; }

 private:
  TokenWindows windows_;
  int64_t batch_;
  int64_t num_windows_;
  int64_t stride_;
  int64_t next_window_;
};

}  // namespace crnet
