// UTF-8 that can be relied upon.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace crnet {

/// Replaces every byte that is not part of well-formed UTF-8 by U+FFFD, in place. Returns how many.
int64_t replace_invalid_utf8(std::string& text);

/// The largest length ≤ `length` at which `text` can be cut without cutting a character.
[[nodiscard]] size_t utf8_boundary(std::string_view text, size_t length);

}  // namespace crnet
