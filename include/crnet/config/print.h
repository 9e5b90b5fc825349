// A configuration as text for people: YAML with the source of every value, and a list of all keys.
#pragma once

#include <string>

#include "crnet/config/fields.h"
#include "crnet/config/load.h"

namespace crnet {

/// YAML that the loader reads back to the same values. With `origins`, each value is followed by a
/// comment with the place it came from ("# recipe.yaml:7", "# default").
[[nodiscard]] std::string fields_to_yaml(const FieldList& list, const Origins* origins = nullptr);

template <class Config>
[[nodiscard]] std::string to_yaml(const Config& config) {
  Config copy = config;
  return fields_to_yaml(bind_fields(copy));
}

template <class Config>
[[nodiscard]] std::string to_yaml(const LoadedConfig<Config>& loaded) {
  Config copy = loaded.config;
  return fields_to_yaml(bind_fields(copy), &loaded.origins);
}

/// One line per key: name, meaning, what is allowed, and the value that `list` points at.
[[nodiscard]] std::string describe_keys(const FieldList& list);

}  // namespace crnet
