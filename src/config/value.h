// Single values: how they are written, and what a field allows.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "crnet/config/fields.h"

namespace crnet {

template <class... Functions>
struct Overloaded : Functions... {
  using Functions::operator()...;
};

[[nodiscard]] std::optional<int64_t> parse_integer(const std::string& text);
/// Finite numbers only.
[[nodiscard]] std::optional<double> parse_number(const std::string& text);
[[nodiscard]] std::optional<bool> parse_bool(const std::string& text);

/// The shortest text that reads back to the same number.
[[nodiscard]] std::string number_text(double value);

/// The value in YAML's flow style.
[[nodiscard]] std::string value_text(const FieldTarget& target);

[[nodiscard]] bool within_limits(const Field& field, double value);

/// "an integer >= 1", "one of auto, cpu, cuda".
[[nodiscard]] std::string expected_text(const BoundField& bound);

}  // namespace crnet
