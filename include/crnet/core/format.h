// Numbers and sizes as people read them, words as a shell does.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace crnet {

/// printf into a string.
[[gnu::format(printf, 1, 2)]] std::string format(const char* pattern, ...);

/// 1536 → "1.5 KiB".
std::string format_bytes(double bytes);

/// 1234567 → "1.23 M"; below 1,000 as it is. For counts: parameters, tokens, FLOPs.
std::string format_count(double count);

/// 3725 → "1h02m", 95 → "1m35s", 4.2 → "4.2s".
std::string format_duration(double seconds);

/// `text` as one word of a shell's command line: quoted where it has to be.
std::string shell_word(const std::string& text);

/// The candidate with the least edit distance to `word`, or "" where none is near or two equally.
std::string nearest_match(const std::string& word, const std::vector<std::string>& candidates);

}  // namespace crnet
