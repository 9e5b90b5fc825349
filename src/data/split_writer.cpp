#include "data/split_writer.h"

#include <algorithm>
#include <utility>

#include "crnet/core/format.h"
#include "data/checksum.h"

namespace crnet {

SplitWriter::SplitWriter(std::filesystem::path folder, std::string split,
                         const Tokenizer& tokenizer, int64_t shard_tokens)
    : folder_(std::move(folder)),
      split_(std::move(split)),
      vocab_size_(tokenizer.vocab_size()),
      tokenizer_hash_(tokenizer.hash()),
      shard_tokens_(shard_tokens) {}

void SplitWriter::write(const TokenBatch& batch) {
  index_.documents += batch.documents;
  index_.text_bytes += batch.bytes;
  index_.tokens += static_cast<int64_t>(batch.tokens.size());
  std::span<const int32_t> rest(batch.tokens);
  while (!rest.empty()) {
    if (!current_) {
      const auto name = format("%s-%05zu.bin", split_.c_str(), index_.shards.size());
      current_.emplace(folder_ / name, vocab_size_, tokenizer_hash_);
      index_.shards.push_back({.file = name, .tokens = 0, .checksum = ""});
    }
    const auto room = static_cast<size_t>(shard_tokens_ - current_->tokens());
    const auto part = rest.first(std::min(room, rest.size()));
    current_->write(part);
    rest = rest.subspan(part.size());
    if (current_->tokens() == shard_tokens_) finish_shard();
  }
}

void SplitWriter::finish_shard() {
  const auto header = current_->finish();
  index_.shards.back().tokens = header.tokens;
  index_.shards.back().checksum = hex(header.checksum);
  finished_.push_back(std::move(*current_));
  current_.reset();
}

void SplitWriter::finish() {
  if (current_) finish_shard();
}

void SplitWriter::publish() {
  for (auto& shard : finished_) shard.publish();
}

}  // namespace crnet
