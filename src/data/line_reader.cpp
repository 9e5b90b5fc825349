#include "data/line_reader.h"

#include <algorithm>

#include "data/utf8.h"

namespace crnet {
namespace {

constexpr size_t kBlockBytes = 256 << 10;

// Where to cut a line that is too long.
size_t piece_length(std::string_view text, size_t max_length) {
  constexpr size_t kNear = 256;
  const size_t space = text.rfind(' ', max_length - 1);
  if (space != std::string_view::npos && space + kNear > max_length) return space + 1;
  return utf8_boundary(text, max_length);
}

}  // namespace

LineReader::LineReader(std::unique_ptr<ByteReader> bytes, size_t max_line)
    : bytes_(std::move(bytes)), max_line_(max_line) {}

bool LineReader::next(std::string_view& line) {
  for (;;) {
    const size_t newline = buffer_.find('\n', std::max(begin_, scanned_));
    if (newline != std::string::npos && newline - begin_ < max_line_) {
      line = take(newline + 1 - begin_);
      return true;
    }
    scanned_ = buffer_.size();
    if (rest().size() > max_line_) {
      line = take(piece_length(rest(), max_line_));
      return true;
    }
    if (refill()) continue;
    line = take(rest().size());
    return !line.empty();
  }
}

std::string_view LineReader::take(size_t length) {
  const auto line = rest().substr(0, length);
  begin_ += length;
  scanned_ = begin_;
  return line;
}

bool LineReader::refill() {
  if (at_end_) return false;
  buffer_.erase(0, begin_);
  scanned_ -= std::min(scanned_, begin_);
  begin_ = 0;
  const size_t kept = buffer_.size();
  buffer_.resize(kept + kBlockBytes);
  const size_t got = bytes_->read(std::span(buffer_).subspan(kept));
  buffer_.resize(kept + got);
  at_end_ = got == 0;
  return !at_end_;
}

bool LineReader::starts_binary() {
  constexpr size_t kPeekBytes = 8 << 10;
  if (rest().empty()) refill();
  return rest().substr(0, kPeekBytes).find('\0') != std::string_view::npos;
}

void LineReader::skip_byte_order_mark() {
  while (rest().size() < 3 && refill()) {
  }
  if (rest().starts_with("\xEF\xBB\xBF")) take(3);
}

}  // namespace crnet
