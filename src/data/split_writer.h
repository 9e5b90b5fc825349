// The shards of one split while they are written.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "crnet/data/data_index.h"
#include "crnet/data/shard.h"
#include "crnet/data/tokenizer.h"
#include "data/encode_pool.h"

namespace crnet {

/// Appends to `<folder>/<split>-00000.bin.tmp` and begins a next shard after `shard_tokens` tokens.
class SplitWriter {
 public:
  SplitWriter(std::filesystem::path folder, std::string split, const Tokenizer& tokenizer,
              int64_t shard_tokens);

  void write(const TokenBatch& batch);

  /// Completes the last shard; all of them are on the disk, under their temporary names.
  void finish();

  /// Gives the finished shards their names.
  void publish();

  [[nodiscard]] const SplitIndex& index() const { return index_; }

 private:
  void finish_shard();

  std::filesystem::path folder_;
  std::string split_;
  int64_t vocab_size_;
  std::string tokenizer_hash_;
  int64_t shard_tokens_;
  SplitIndex index_;
  std::optional<ShardWriter> current_;
  std::vector<ShardWriter> finished_;
};

}  // namespace crnet
