// index.json: what a folder of prepared data holds.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace crnet {

/// File names in a folder of prepared data.
inline constexpr const char* kIndexFile = "index.json";
inline constexpr const char* kTokenizerFile = "tokenizer.model";

struct ShardEntry {
  std::string file;  ///< Name inside the folder.
  int64_t tokens = 0;
  std::string checksum;  ///< As in the shard's header, hexadecimal.
};

/// One split: "train" or "validation".
struct SplitIndex {
  int64_t documents = 0;
  int64_t text_bytes = 0;  ///< UTF-8 bytes of the documents.
  int64_t tokens = 0;      ///< An end-of-sequence after each document included.
  std::vector<ShardEntry> shards;

  [[nodiscard]] double bytes_per_token() const;
};

/// Written last by prepare: a folder without it was not finished.
struct DataIndex {
  std::string tokenizer_hash;
  int32_t vocab_size = 0;
  int32_t eos_id = 0;
  std::map<std::string, std::string> options;  ///< How it was prepared, for people.
  std::map<std::string, SplitIndex> splits;

  /// A hash of the tokenizer and of every shard's tokens, in order. Equal for data that give the
  /// same samples; where the text came from and how it was read have no part in it.
  [[nodiscard]] std::string content_hash() const;

  /// Throws UsageError where `folder` has none, Error for one that cannot be understood.
  static DataIndex load(const std::filesystem::path& folder);

  /// Replaces the folder's index; it is on the disk on return.
  void save(const std::filesystem::path& folder) const;
};

}  // namespace crnet
