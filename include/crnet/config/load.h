// Reads a configuration from YAML or JSON, and remembers where each value came from.
//
// `extends: other.yaml` at the top of a file, relative to that file, reads the other one first;
// what the file itself says then goes on top, key by key. Overrides ("train.steps=50") come last;
// their values are YAML.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "crnet/config/fields.h"
#include "crnet/core/error.h"

namespace crnet {

/// Where each value came from, by full key: "recipe.yaml:12" or "--set". No entry: the default.
using Origins = std::map<std::string, std::string>;

/// Reads `path` and `overrides` into the object behind `list`. Throws UsageError with one line
/// ("[config] recipe.yaml:12: train.stepz: unknown key; did you mean train.steps?") for a missing
/// or unreadable file, a key that is unknown or given twice, and a value of the wrong type or
/// outside its limits.
[[nodiscard]] Origins load_fields(const FieldList& list, const std::string& path,
                                  const std::vector<std::string>& overrides);

/// Reads JSON or YAML text into the object behind `list`; `source` names it in errors. `extends` is
/// unknown here. Throws UsageError as load_fields does.
void parse_fields(const FieldList& list, const std::string& text, const std::string& source);

/// The line for an error about `key`: "[config] recipe.yaml:12: key: problem". Where the key has
/// its default, the place is that of the first key named in `problem` that has not, else `path`.
[[nodiscard]] std::string config_problem(const FieldList& list, const Origins& origins,
                                         const std::string& path, const std::string& key,
                                         const std::string& problem);

template <class Config>
struct LoadedConfig {
  Config config;
  Origins origins;
  std::string path;

  /// "recipe.yaml:12", "--set" or "default".
  [[nodiscard]] std::string origin(const std::string& key) const {
    const auto found = origins.find(key);
    return found == origins.end() ? "default" : found->second;
  }

  /// One line about `key`'s value, to throw as UsageError: what only the user of the value can see,
  /// such as a folder that does not exist.
  [[nodiscard]] std::string problem(const std::string& key, const std::string& text) const {
    Config copy = config;
    return config_problem(bind_fields(copy), origins, path, key, text);
  }

  /// Calls `check`, which throws UsageError whose text starts with the key at fault; the file and
  /// line are put before it.
  template <class Check>
  auto located(const Check& check) const {
    try {
      return check();
    } catch (const UsageError& error) {
      const std::string text = error.what();
      const size_t colon = text.find(": ");
      if (colon == std::string::npos) throw;
      throw UsageError(problem(text.substr(0, colon), text.substr(colon + 2)));
    }
  }
};

/// Reads, overrides and validates. Config has visit_fields, and validate() that throws UsageError
/// whose text starts with the key at fault; the file and line are put before it.
template <class Config>
[[nodiscard]] LoadedConfig<Config> load_config(const std::string& path,
                                               const std::vector<std::string>& overrides = {}) {
  LoadedConfig<Config> loaded;
  loaded.path = path;
  loaded.origins = load_fields(bind_fields(loaded.config), path, overrides);
  loaded.located([&] { loaded.config.validate(); });
  return loaded;
}

}  // namespace crnet
