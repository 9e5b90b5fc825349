// Lines out of a stream of bytes.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "data/byte_reader.h"

namespace crnet {

/// Hands out one line at a time, its newline included. A line longer than `max_line` bytes comes in
/// pieces without a newline, cut after a space where one is near, and never inside a character: so
/// memory is bounded whatever the file holds.
class LineReader {
 public:
  LineReader(std::unique_ptr<ByteReader> bytes, size_t max_line);

  /// False at the end. The view is valid until the next call.
  [[nodiscard]] bool next(std::string_view& line);

  /// Whether the first bytes hold a NUL, as UTF-16 text, pictures and archives do.
  [[nodiscard]] bool starts_binary();

  /// Drops a leading UTF-8 byte order mark.
  void skip_byte_order_mark();

  [[nodiscard]] int64_t stored_bytes_read() const { return bytes_->stored_bytes_read(); }

 private:
  bool refill();
  std::string_view take(size_t length);
  [[nodiscard]] std::string_view rest() const { return std::string_view(buffer_).substr(begin_); }

  std::unique_ptr<ByteReader> bytes_;
  size_t max_line_;
  std::string buffer_;
  size_t begin_ = 0;    // Start of what has not been handed out.
  size_t scanned_ = 0;  // No newline between begin_ and here.
  bool at_end_ = false;
};

}  // namespace crnet
