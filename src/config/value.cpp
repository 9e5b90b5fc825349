#include "config/value.h"

#include <charconv>
#include <cmath>
#include <cstdio>

namespace crnet {

namespace {

template <class Number>
std::optional<Number> parse_all(const std::string& text) {
  Number value{};
  const char* end = text.data() + text.size();
  const auto result = std::from_chars(text.data(), end, value);
  if (result.ec != std::errc{} || result.ptr != end || text.empty()) return std::nullopt;
  return value;
}

bool is_plain_character(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '/' || c == '.' ||
         c == '-' || c == '+';
}

/// Whether YAML would read `text` as this very string without quotes.
bool is_plain_string(const std::string& text) {
  if (text.empty() || text.front() == '-' || text == "null") return false;
  if (parse_bool(text) || parse_number(text)) return false;
  for (const char c : text) {
    if (!is_plain_character(c)) return false;
  }
  return true;
}

std::string quoted(const std::string& text) {
  std::string result = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      result += '\\';
      result += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\u%04x", static_cast<unsigned>(c));
      result += escape;
    } else {
      result += c;
    }
  }
  return result + "\"";
}

std::string list_text(const std::vector<int64_t>& list) {
  std::string text;
  for (const int64_t value : list) text += (text.empty() ? "" : ", ") + std::to_string(value);
  return "[" + text + "]";
}

std::string map_text(const std::map<std::string, int64_t>& map) {
  std::string text;
  for (const auto& [name, value] : map) {
    text += (text.empty() ? "" : ", ") + name + ": " + std::to_string(value);
  }
  return "{" + text + "}";
}

std::string integers_text(const IntegerOrListOrMap& value) {
  return std::visit(
      Overloaded{[](int64_t one) { return std::to_string(one); },
                 [](const std::vector<int64_t>& list) { return list_text(list); },
                 [](const std::map<std::string, int64_t>& map) { return map_text(map); }},
      value);
}

std::string limits_text(const Field& field) {
  std::string text;
  const auto add = [&text](const char* sign, double limit) {
    if (std::isfinite(limit)) text += (text.empty() ? " " : " and ") + (sign + number_text(limit));
  };
  add(">= ", field.minimum);
  add("> ", field.above);
  add("<= ", field.maximum);
  add("< ", field.below);
  return text;
}

}  // namespace

std::optional<int64_t> parse_integer(const std::string& text) {
  return parse_all<int64_t>(text);
}

std::optional<double> parse_number(const std::string& text) {
  const auto value = parse_all<double>(text);
  return value && std::isfinite(*value) ? value : std::nullopt;
}

std::optional<bool> parse_bool(const std::string& text) {
  if (text == "true") return true;
  if (text == "false") return false;
  return std::nullopt;
}

std::string number_text(double value) {
  constexpr double kWhole = 1e15;  // up to here 10000000 reads better than 1e+07
  if (value == std::floor(value) && std::abs(value) < kWhole) {
    return std::to_string(static_cast<int64_t>(value));
  }
  char buffer[32];
  const auto result = std::to_chars(buffer, buffer + sizeof buffer, value);
  std::string text(buffer, result.ptr);
  // 1e-06 reads worse than 1e-6.
  const size_t exponent = text.find('e');
  if (exponent != std::string::npos && text.size() > exponent + 3 && text[exponent + 2] == '0') {
    text.erase(exponent + 2, 1);
  }
  return text;
}

std::string value_text(const FieldTarget& target) {
  return std::visit(
      Overloaded{[](const bool* value) { return std::string(*value ? "true" : "false"); },
                 [](const int64_t* value) { return std::to_string(*value); },
                 [](const double* value) { return number_text(*value); },
                 [](const std::string* value) {
                   return is_plain_string(*value) ? *value : quoted(*value);
                 },
                 [](const std::vector<int64_t>* value) { return list_text(*value); },
                 [](const IntegerOrListOrMap* value) { return integers_text(*value); },
                 [](const EnumTarget& target) { return target.get(); }},
      target);
}

bool within_limits(const Field& field, double value) {
  return std::isfinite(value) && value >= field.minimum && value > field.above &&
         value <= field.maximum && value < field.below;
}

std::string expected_text(const BoundField& bound) {
  const std::string limits = limits_text(bound.field);
  return std::visit(
      Overloaded{[](const bool*) { return std::string("true or false"); },
                 [&](const int64_t*) { return "an integer" + limits; },
                 [&](const double*) { return "a number" + limits; },
                 [](const std::string*) { return std::string("text"); },
                 [&](const std::vector<int64_t>*) { return "a list of integers" + limits; },
                 [&](const IntegerOrListOrMap*) {
                   const bool has_map = !bound.field.map_keys.empty();
                   return "an integer" + limits +
                          (has_map ? ", a list of them, or a map of them" : " or a list of them");
                 },
                 [](const EnumTarget& target) {
                   std::string text;
                   for (const auto& name : target.names) text += (text.empty() ? "" : ", ") + name;
                   return "one of " + text;
                 }},
      bound.target);
}

}  // namespace crnet
