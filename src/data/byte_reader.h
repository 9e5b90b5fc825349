// The bytes of a file, whether it is stored plain, with gzip or with Zstandard.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>

namespace crnet {

/// Streams the uncompressed bytes of one file. Damaged or truncated compressed data throws
/// crnet::Error naming the file.
class ByteReader {
 public:
  /// Picks the decoder by the last suffix: .gz, .zst, anything else is plain.
  static std::unique_ptr<ByteReader> open(const std::filesystem::path& path);
  virtual ~ByteReader() = default;

  /// Fills at most the whole buffer; 0 only at the end.
  [[nodiscard]] virtual size_t read(std::span<char> buffer) = 0;

  /// Bytes of the stored file that have been used so far: for progress.
  [[nodiscard]] virtual int64_t stored_bytes_read() const = 0;
};

/// Whether ByteReader would decompress a file of this name.
[[nodiscard]] bool is_compressed(const std::filesystem::path& path);

}  // namespace crnet
