// The token shards of one split, and the windows that training reads from them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "crnet/data/data_index.h"
#include "crnet/data/shard.h"

namespace crnet {

/// What DataSet::open checks beyond what is always checked.
struct DataSetChecks {
  bool verify = false;              ///< Read every shard and compare its checksum.
  std::string tokenizer_hash = {};  ///< Expected Tokenizer::hash(); "" accepts any.
  int64_t vocab_size = 0;           ///< Expected vocabulary size; 0 accepts any.
};

/// All shards of a split, mapped. Copies share the mapping.
class DataSet {
 public:
  /// Throws UsageError where `folder` holds no finished data, or none of this split or of what
  /// `checks` say; Error, naming the file, where a shard is missing, truncated, damaged, or of
  /// another tokenizer than the index says.
  static DataSet open(const std::filesystem::path& folder, const std::string& split,
                      const DataSetChecks& checks = {});

  [[nodiscard]] int64_t tokens() const;
  [[nodiscard]] const std::vector<Shard>& shards() const { return state_->shards; }
  [[nodiscard]] const std::filesystem::path& folder() const { return state_->folder; }
  [[nodiscard]] const std::string& split() const { return state_->split; }
  [[nodiscard]] const DataIndex& index() const { return state_->index; }
  [[nodiscard]] const SplitIndex& split_index() const;

 private:
  struct State {
    std::filesystem::path folder;
    std::string split;
    DataIndex index;
    std::vector<Shard> shards;
  };
  explicit DataSet(std::shared_ptr<const State> state) : state_(std::move(state)) {}

  std::shared_ptr<const State> state_;
};

/// The windows of a split for sequences of T tokens. Window i of a shard is its tokens
/// [i·T, i·T + T], T + 1 of them: the inputs and, shifted by one, their targets. Windows do not
/// cross shards; a rest too short for a window is left out, at most T tokens of a shard.
class TokenWindows {
 public:
  /// Throws UsageError where the split has fewer tokens than one window.
  TokenWindows(DataSet dataset, int64_t sequence_length);

  [[nodiscard]] int64_t count() const { return first_window_.back(); }
  [[nodiscard]] int64_t sequence_length() const { return sequence_length_; }

  /// Reads window `index` of 0 to count() − 1; `inputs` and `targets` have T elements.
  void read(int64_t index, std::span<int64_t> inputs, std::span<int64_t> targets) const;

 private:
  DataSet dataset_;
  int64_t sequence_length_;
  std::vector<int64_t> first_window_;  // Of each shard, and at the end the number of all.
};

}  // namespace crnet
