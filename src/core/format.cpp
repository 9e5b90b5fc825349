#include "crnet/core/format.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <numeric>

namespace crnet {

std::string format(const char* pattern, ...) {
  va_list args;
  va_start(args, pattern);
  va_list again;
  va_copy(again, args);
  const int length = std::vsnprintf(nullptr, 0, pattern, args);
  va_end(args);
  std::string text(static_cast<size_t>(std::max(length, 0)), '\0');
  std::vsnprintf(text.data(), text.size() + 1, pattern, again);
  va_end(again);
  return text;
}

namespace {

std::string with_unit(double value, double step, const std::array<const char*, 6>& units) {
  size_t unit = 0;
  // 999.5 would print as "1000 K": round up to the next unit instead.
  while (std::abs(value) >= step - 0.5 && unit + 1 < units.size()) {
    value /= step;
    ++unit;
  }
  if (unit == 0) return format("%.0f%s", value, units[0]);
  const int decimals = std::abs(value) < 10 ? 2 : std::abs(value) < 100 ? 1 : 0;
  return format("%.*f%s", decimals, value, units[unit]);
}

}  // namespace

std::string format_bytes(double bytes) {
  return with_unit(bytes, 1024, {" B", " KiB", " MiB", " GiB", " TiB", " PiB"});
}

std::string format_count(double count) {
  return with_unit(count, 1000, {"", " K", " M", " G", " T", " P"});
}

std::string format_duration(double seconds) {
  if (!std::isfinite(seconds)) return "?";
  if (seconds < 10) return format("%.1fs", seconds);
  const auto whole = static_cast<int64_t>(std::llround(seconds));
  const auto days = static_cast<long>(whole / 86400), hours = static_cast<long>(whole / 3600 % 24);
  const auto minutes = static_cast<long>(whole / 60 % 60), rest = static_cast<long>(whole % 60);
  if (days > 0) return format("%ldd%02ldh", days, hours);
  if (hours > 0) return format("%ldh%02ldm", hours, minutes);
  if (minutes > 0) return format("%ldm%02lds", minutes, rest);
  return format("%lds", rest);
}

std::string shell_word(const std::string& text) {
  constexpr const char* kPlain =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-+=./:,@%";
  if (!text.empty() && text.find_first_not_of(kPlain) == std::string::npos) return text;
  std::string quoted = "'";
  for (const char c : text) quoted += c == '\'' ? "'\\''" : std::string(1, c);
  return quoted + "'";
}

namespace {

size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, replaced});
    }
  }
  return row[b.size()];
}

}  // namespace

std::string nearest_match(const std::string& word, const std::vector<std::string>& candidates) {
  std::string best;
  size_t best_distance = std::max<size_t>(3, word.size() / 2 + 1);
  for (const auto& candidate : candidates) {
    const size_t distance = edit_distance(word, candidate);
    if (distance < best_distance) {
      best_distance = distance;
      best = candidate;
    } else if (distance == best_distance && candidate != best) {
      best.clear();  // a guess between equals would be wrong as often as right
    }
  }
  return best;
}

}  // namespace crnet
