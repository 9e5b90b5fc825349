#include "dist/host_list.h"

#include <charconv>

namespace crnet {
namespace {

/// Takes a number that begins the text off it.
std::optional<int> take_number(std::string_view& text) {
  int value = 0;
  const auto [stop, failure] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (failure != std::errc() || value < 0) return std::nullopt;
  text.remove_prefix(static_cast<size_t>(stop - text.data()));
  return value;
}

bool take(std::string_view& text, std::string_view prefix) {
  if (!text.starts_with(prefix)) return false;
  text.remove_prefix(prefix.size());
  return true;
}

}  // namespace

std::optional<std::string> first_host(std::string_view hosts) {
  std::string host;
  while (!hosts.empty() && hosts.front() != ',') {
    if (take(hosts, "[")) {
      const size_t close = hosts.find(']');
      const size_t end = hosts.find_first_of(",-]");
      if (close == std::string_view::npos || end == 0) return std::nullopt;
      host += hosts.substr(0, end);
      hosts.remove_prefix(close + 1);
    } else {
      host += hosts.front();
      hosts.remove_prefix(1);
    }
  }
  if (host.empty() || host.find(']') != std::string::npos) return std::nullopt;
  return host;
}

std::optional<int> tasks_on_host(std::string_view tasks, int host) {
  do {
    const auto count = take_number(tasks);
    std::optional<int> repeats = 1;
    if (take(tasks, "(x")) {
      repeats = take_number(tasks);
      if (!take(tasks, ")")) return std::nullopt;
    }
    const bool ends_here = tasks.empty() || tasks.front() == ',';
    if (!count || !repeats || !ends_here) return std::nullopt;
    if (host < *repeats) return count;
    host -= *repeats;
  } while (take(tasks, ","));
  return std::nullopt;
}

}  // namespace crnet
