#include "data/encode_pool.h"

#include <utility>

#include "data/cached_encoder.h"

namespace crnet {
namespace {

TokenBatch encode(const TextBatch& batch, int32_t eos_id, CachedEncoder& encoder) {
  TokenBatch result{.tokens = {},
                    .documents = static_cast<int64_t>(batch.documents.size()),
                    .bytes = batch.bytes};
  for (const auto& document : batch.documents) {
    encoder.encode(document, result.tokens);
    result.tokens.push_back(eos_id);
  }
  return result;
}

}  // namespace

EncodePool::EncodePool(Tokenizer tokenizer, int64_t threads) : tokenizer_(std::move(tokenizer)) {
  for (int64_t i = 0; i < threads; ++i) {
    workers_.emplace_back([this](const std::stop_token& stop) { work(stop); });
  }
}

EncodePool::~EncodePool() {
  // All at once, so that they do not stop one after the other.
  for (auto& worker : workers_) worker.request_stop();
}

std::future<TokenBatch> EncodePool::submit(TextBatch batch) {
  // The encoder is made inside the task, so that what it throws reaches the future.
  Task task([batch = std::move(batch), this](std::optional<CachedEncoder>& encoder) {
    if (!encoder) encoder.emplace(tokenizer_);
    return encode(batch, tokenizer_.eos_id(), *encoder);
  });
  auto result = task.get_future();
  const std::lock_guard lock(mutex_);
  tasks_.push_back(std::move(task));
  changed_.notify_one();
  return result;
}

void EncodePool::work(const std::stop_token& stop) {
  std::optional<CachedEncoder> encoder;
  for (;;) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, stop, [&] { return !tasks_.empty(); });
    if (stop.stop_requested()) return;
    auto task = std::move(tasks_.front());
    tasks_.pop_front();
    lock.unlock();
    task(encoder);
  }
}

}  // namespace crnet
