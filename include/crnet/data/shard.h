// Token ids in a file that is mapped, not read.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace crnet {

/// What the header of a shard says. The file is little endian: 4,096 bytes of header, then `tokens`
/// ids of `bytes_per_token` bytes.
///
/// | offset | type     | content                                         |
/// |--------|----------|-------------------------------------------------|
/// | 0      | char[8]  | "CRNETSHD"                                      |
/// | 8      | uint32   | format version, 1                               |
/// | 12     | uint32   | bytes per token: 2 (uint16) or 4 (uint32)       |
/// | 16     | uint64   | number of tokens                                |
/// | 24     | uint64   | vocabulary size                                 |
/// | 32     | char[16] | hash of the tokenizer, hexadecimal              |
/// | 48     | uint64   | XXH3-64 of the tokens' bytes                    |
/// | 56     | uint64   | XXH3-64 of the header's bytes 0 to 55           |
struct ShardHeader {
  int32_t bytes_per_token = 2;
  int64_t tokens = 0;
  int64_t vocab_size = 0;
  std::string tokenizer_hash;
  uint64_t checksum = 0;
};

/// Writes one shard to `path` with ".tmp" appended; only publish() gives it its name. What was not
/// published is removed by the destructor.
class ShardWriter {
 public:
  /// Stores uint16 where vocab_size ≤ 65,536, else uint32. `tokenizer_hash`: Tokenizer::hash().
  ShardWriter(std::filesystem::path path, int64_t vocab_size, const std::string& tokenizer_hash);
  ~ShardWriter();
  ShardWriter(ShardWriter&&) noexcept;
  ShardWriter& operator=(ShardWriter&&) noexcept;

  /// Appends. Throws crnet::Error for an id outside the vocabulary, or where the disk is full.
  void write(std::span<const int32_t> tokens);

  [[nodiscard]] int64_t tokens() const;

  /// Writes the header and waits for the disk. No write() after it.
  ShardHeader finish();

  /// Renames the finished file to `path`.
  void publish();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// A shard that is mapped into memory, to read.
class Shard {
 public:
  /// Throws crnet::Error, naming the file, where it is no shard, is of another version, is damaged
  /// in its header, or is shorter or longer than its header says.
  static Shard open(const std::filesystem::path& path);
  ~Shard();
  Shard(Shard&&) noexcept;
  Shard& operator=(Shard&&) noexcept;

  /// Reads everything, and throws crnet::Error, naming the file, where the checksum differs.
  void verify() const;

  /// Copies tokens [begin, begin + out.size()); the range must lie inside the shard.
  void read(int64_t begin, std::span<int64_t> out) const;

  [[nodiscard]] int64_t tokens() const { return header_.tokens; }
  [[nodiscard]] const ShardHeader& header() const { return header_; }
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  Shard(std::filesystem::path path, ShardHeader header, const char* mapping, size_t mapped_bytes);

  std::filesystem::path path_;
  ShardHeader header_;
  const char* mapping_ = nullptr;
  size_t mapped_bytes_ = 0;
};

}  // namespace crnet
