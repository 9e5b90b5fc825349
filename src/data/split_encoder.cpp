#include "data/split_encoder.h"

#include <utility>

namespace crnet {

SplitEncoder::SplitEncoder(const Tokenizer& tokenizer, int64_t threads, Splits& splits)
    : pool_(tokenizer, threads), most_pending_(static_cast<size_t>(4 * threads)), splits_(splits) {}

void SplitEncoder::add(std::string document, bool is_validation) {
  constexpr int64_t kBatchBytes = 256 << 10;
  auto& batch = batch_of(is_validation);
  batch.bytes += static_cast<int64_t>(document.size());
  batch.documents.push_back(std::move(document));
  if (batch.bytes >= kBatchBytes) submit(is_validation);
}

void SplitEncoder::finish() {
  submit(false);
  submit(true);
  while (!pending_.empty()) write_oldest();
  splits_.train.finish();
  splits_.validation.finish();
}

void SplitEncoder::submit(bool is_validation) {
  auto batch = std::exchange(batch_of(is_validation), {});
  pending_.push_back({pool_.submit(std::move(batch)), is_validation});
  while (pending_.size() > most_pending_) write_oldest();
}

void SplitEncoder::write_oldest() {
  auto oldest = std::move(pending_.front());
  pending_.pop_front();
  splits_.of(oldest.is_validation).write(oldest.tokens.get());
}

}  // namespace crnet
