// Documents to ids on several threads.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <future>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "crnet/data/tokenizer.h"
#include "data/cached_encoder.h"

namespace crnet {

/// Documents of one split, and what becomes of them.
struct TextBatch {
  std::vector<std::string> documents;
  int64_t bytes = 0;
};
struct TokenBatch {
  std::vector<int32_t> tokens;  // An end-of-sequence after each document.
  int64_t documents = 0;
  int64_t bytes = 0;
};

/// Threads that encode batches. Each submitted batch gives a future, so that the caller takes the
/// results in the order in which it submitted, and bounds how many are under way.
class EncodePool {
 public:
  EncodePool(Tokenizer tokenizer, int64_t threads);
  ~EncodePool();
  EncodePool(const EncodePool&) = delete;
  EncodePool& operator=(const EncodePool&) = delete;

  [[nodiscard]] std::future<TokenBatch> submit(TextBatch batch);

 private:
  using Task = std::packaged_task<TokenBatch(std::optional<CachedEncoder>&)>;

  void work(const std::stop_token& stop);

  Tokenizer tokenizer_;
  std::mutex mutex_;
  std::condition_variable_any changed_;
  std::deque<Task> tasks_;
  std::vector<std::jthread> workers_;  // Last: they stop before what they use goes.
};

}  // namespace crnet
