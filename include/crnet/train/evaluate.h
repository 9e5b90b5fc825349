// How well a model predicts held-out text.
#pragma once

#include <cstdint>
#include <functional>

#include "crnet/data/dataset.h"
#include "crnet/model/causal_lm.h"

namespace crnet {

struct EvalOptions {
  int64_t batch = 8;              ///< sequences per forward pass
  int64_t sequence_length = 256;  ///< T; every window starts without context
  int64_t max_tokens = 0;         ///< 0: all there are
  int64_t num_processes = 1;      ///< that share the windows
  int64_t process = 0;            ///< which of them this is
  bool in_step = false;           ///< all make as many forward passes: see DataParallel
};

struct EvalResult {
  double loss = 0;     ///< mean cross entropy in nats per token
  int64_t tokens = 0;  ///< predicted tokens
  [[nodiscard]] double perplexity() const;
  /// Bits per byte of text, from the data's own ratio of tokens to bytes.
  [[nodiscard]] double bits_per_byte(double bytes_per_token) const;
};

/// The mean over tokens (not over batches) of the loss on the windows of `dataset` in their order.
/// Of several processes each has the mean over its own share (0 where it gets none).
/// Throws Error where the split is shorter than one window. Stops early, with what it has, where
/// `keep_going` returns false.
EvalResult evaluate(CausalLMImpl& model, torch::Device device, const DataSet& dataset,
                    const EvalOptions& options, const std::function<bool()>& keep_going = {});

}  // namespace crnet
