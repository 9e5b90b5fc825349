// The environment as a launcher's variables: numbers are checked, errors say which process speaks.
#pragma once

#include <optional>
#include <string>

#include "crnet/dist/launch.h"

namespace crnet {

class LaunchVariables {
 public:
  explicit LaunchVariables(EnvironmentLookup environment);

  [[nodiscard]] std::optional<std::string> find(const char* name) const;
  [[nodiscard]] bool has(const char* name) const { return find(name).has_value(); }

  /// A whole number from 0 on. Throws UsageError with `remedy` where it is missing or another.
  [[nodiscard]] int number(const char* name, const std::string& remedy) const;

  /// Whether the variable is `value`.
  [[nodiscard]] bool is(const char* name, int value) const;

  /// Throws UsageError: "[dist] <text> (on <host>, <variable of the rank>=<value>)".
  [[noreturn]] void fail(const std::string& text) const;

 private:
  EnvironmentLookup environment_;
};

/// The variables by which one launcher tells a process its place.
struct PlaceNames {
  const char* rank;
  const char* size;
  const char* local_rank;
  const char* local_size;
};

/// Throws UsageError where a rank is not below its size, or the local size above the whole.
void check_place(const LaunchVariables& variables, const PlaceNames& names, const Launch& launch);

}  // namespace crnet
