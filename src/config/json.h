// A configuration as JSON, for checkpoints and other programs.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "crnet/config/fields.h"
#include "crnet/config/load.h"

namespace crnet {

/// Nested objects, keys in the order of the fields.
[[nodiscard]] nlohmann::ordered_json fields_to_json(const FieldList& list);

/// Reads into the object behind `list`; keys that `json` lacks keep their values. Throws UsageError
/// as parse_fields does.
void fields_from_json(const FieldList& list, const nlohmann::ordered_json& json,
                      const std::string& source);

/// JSON Schema (draft 2020-12) of the files that load_fields reads, with type, default, description
/// and limits of every key. The defaults are the values that `list` points at.
[[nodiscard]] nlohmann::ordered_json json_schema(const FieldList& list, const std::string& title);

template <class Config>
[[nodiscard]] nlohmann::ordered_json to_json(const Config& config) {
  Config copy = config;
  return fields_to_json(bind_fields(copy));
}

/// The inverse of to_json. Strict: unknown keys, wrong types and what validate() refuses throw
/// UsageError with one line that starts "[config] `source`: ". Missing keys get their defaults.
template <class Config>
[[nodiscard]] Config from_json(const nlohmann::ordered_json& json, const std::string& source) {
  Config config;
  fields_from_json(bind_fields(config), json, source);
  try {
    config.validate();
  } catch (const UsageError& error) {
    throw UsageError("[config] " + source + ": " + error.what());
  }
  return config;
}

}  // namespace crnet
