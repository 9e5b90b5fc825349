#include "data/utf8.h"

#include <cstring>

namespace crnet {
namespace {

bool is_continuation(unsigned char byte) {
  return (byte & 0xC0) == 0x80;
}

// Length of the well-formed sequence that starts `rest` (Unicode 15, table 3-7); 0 where none does.
size_t sequence_length(std::string_view rest) {
  const auto at = [&](size_t i) {
    return i < rest.size() ? static_cast<unsigned char>(rest[i]) : static_cast<unsigned char>(0);
  };
  const unsigned char lead = at(0), second = at(1);
  if (lead < 0x80) return 1;
  if (lead < 0xC2 || lead > 0xF4 || !is_continuation(second)) return 0;
  if (lead < 0xE0) return 2;
  if (lead == 0xE0 && second < 0xA0) return 0;  // Overlong.
  if (lead == 0xED && second > 0x9F) return 0;  // A surrogate.
  if (!is_continuation(at(2))) return 0;
  if (lead < 0xF0) return 3;
  if (lead == 0xF0 && second < 0x90) return 0;  // Overlong.
  if (lead == 0xF4 && second > 0x8F) return 0;  // Above U+10FFFF.
  return is_continuation(at(3)) ? 4 : 0;
}

// Where the well-formed prefix ends.
size_t valid_prefix(std::string_view text, size_t from) {
  constexpr uint64_t kHighBits = 0x8080808080808080U;
  size_t i = from;
  while (i < text.size()) {
    uint64_t eight = 0;
    if (i + sizeof eight <= text.size()) {
      std::memcpy(&eight, text.data() + i, sizeof eight);
      if ((eight & kHighBits) == 0) {
        i += sizeof eight;
        continue;
      }
    }
    const size_t length = sequence_length(text.substr(i));
    if (length == 0) return i;
    i += length;
  }
  return text.size();
}

}  // namespace

int64_t replace_invalid_utf8(std::string& text) {
  size_t valid = valid_prefix(text, 0);
  if (valid == text.size()) return 0;
  std::string repaired;
  repaired.reserve(text.size() + 64);
  int64_t replaced = 0;
  for (size_t from = 0;;) {
    repaired.append(text, from, valid - from);
    if (valid == text.size()) break;
    repaired.append("\xEF\xBF\xBD");
    ++replaced;
    from = valid + 1;
    valid = valid_prefix(text, from);
  }
  text = std::move(repaired);
  return replaced;
}

size_t utf8_boundary(std::string_view text, size_t length) {
  if (length >= text.size()) return text.size();
  size_t cut = length;
  for (int back = 0; back < 3 && cut > 0; ++back) {
    if (!is_continuation(static_cast<unsigned char>(text[cut]))) return cut;
    --cut;
  }
  return cut > 0 && !is_continuation(static_cast<unsigned char>(text[cut])) ? cut : length;
}

}  // namespace crnet
