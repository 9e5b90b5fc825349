// From a YAML node to a field's value.
#pragma once

#include <yaml-cpp/yaml.h>

#include <string>

#include "crnet/config/fields.h"

namespace crnet {

/// What is being read, for messages.
struct YamlSource {
  std::string name;
  bool has_lines = false;     ///< a file: its nodes' lines mean something
  bool bare_strings = false;  ///< 300 is good for text: a shell has taken the quotes away

  /// "recipe.yaml:12".
  [[nodiscard]] std::string place(const YAML::Node& node) const;
};

/// Throws UsageError "[config] place: key: problem".
[[noreturn]] void throw_config_error(const std::string& place, const std::string& key,
                                     const std::string& problem);

/// "; did you mean prefix+name?" or "".
[[nodiscard]] std::string did_you_mean(const std::string& word,
                                       const std::vector<std::string>& candidates,
                                       const std::string& prefix = "");

/// What a person sees at `node`, for messages: the scalar, "a list", "a map", "nothing".
[[nodiscard]] std::string shown(const YAML::Node& node);

/// Sets the field. `place` is that of the key. Throws UsageError where type or limits are not met.
void assign_yaml(const BoundField& bound, const YAML::Node& node, const std::string& place,
                 const YamlSource& source);

}  // namespace crnet
