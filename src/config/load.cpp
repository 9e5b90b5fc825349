#include "crnet/config/load.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "config/yaml_value.h"
#include "crnet/core/file.h"
#include "crnet/core/format.h"

namespace crnet {

namespace fs = std::filesystem;

namespace {

constexpr const char* kExtends = "extends";

std::string joined(const std::string& section, const std::string& name) {
  return section.empty() ? name : section + "." + name;
}

std::string section_of(const std::string& key) {
  const size_t dot = key.rfind('.');
  return dot == std::string::npos ? "" : key.substr(0, dot);
}

std::string name_of(const std::string& key) {
  return key.substr(key.rfind('.') + 1);
}

/// Names of the keys directly inside a section.
std::vector<std::string> names_in(const FieldList& list, const std::string& section) {
  std::vector<std::string> names;
  for (const auto& inner : list.sections) {
    if (section_of(inner.key) == section) names.push_back(name_of(inner.key));
  }
  for (const auto& bound : list.fields) {
    if (section_of(bound.key) == section) names.push_back(name_of(bound.key));
  }
  return names;
}

/// What an unknown key was most likely meant to be: the same name in another section, a near name
/// in its own, or, where the section is unknown too, the nearest of all keys.
std::string unknown_key_hint(const FieldList& list, const std::string& key) {
  const std::string section = section_of(key);
  for (const auto& bound : list.fields) {
    if (name_of(bound.key) == name_of(key)) return "; did you mean " + bound.key + "?";
  }
  if (!section.empty() && !list.is_section(section)) {
    std::vector<std::string> keys;
    for (const auto& bound : list.fields) keys.push_back(bound.key);
    return did_you_mean(key, keys);
  }
  const auto names = names_in(list, section);
  const std::string hint = did_you_mean(name_of(key), names, section.empty() ? "" : section + ".");
  if (!hint.empty()) return hint;
  std::string all;
  for (const auto& name : names) all += (all.empty() ? "" : ", ") + name;
  return "; valid here: " + all;
}

std::string missing_file_hint(const fs::path& path) {
  std::vector<std::string> names;
  std::error_code ignored;
  const fs::path of_run = path / "config.yaml";
  if (fs::is_regular_file(of_run, ignored)) return "; did you mean " + of_run.string() + "?";
  for (const auto& entry : fs::directory_iterator(
           path.has_parent_path() ? path.parent_path() : fs::path("."), ignored)) {
    if (entry.is_regular_file(ignored)) names.push_back(entry.path().filename().string());
  }
  const std::string nearest = nearest_match(path.filename().string(), names);
  return nearest.empty() ? "" : "; did you mean " + (path.parent_path() / nearest).string() + "?";
}

std::string text_of(const fs::path& path) {
  try {
    return read_text(path);
  } catch (const Error& failure) {
    throw UsageError("[config] " + path.string() + ": " + failure.what());
  }
}

YAML::Node parse_text(const std::string& text, const YamlSource& source) {
  const std::string start = "[config] " + source.name;
  try {
    const auto documents = YAML::LoadAll(text);
    if (documents.size() > 1) {
      throw UsageError(
          start + format(": expected one document, got %zu separated by ---", documents.size()));
    }
    return documents.empty() ? YAML::Node() : documents.front();
  } catch (const YAML::Exception& error) {
    const std::string line =
        source.has_lines ? ":" + std::to_string(error.mark.line + 1) : std::string();
    throw UsageError(start + line + ": expected YAML or JSON, got a syntax error: " + error.msg);
  }
}

class Loader {
 public:
  explicit Loader(const FieldList& list) : list_(list) {}

  [[nodiscard]] Origins take_origins() { return std::move(origins_); }

  void read_file(const fs::path& path) {
    const YamlSource source{.name = path.string(), .has_lines = true};
    const YAML::Node root = parse_text(text_of(path), source);
    if (!root.IsMap()) {
      throw UsageError("[config] " + source.name + ": expected keys and values, got " +
                       shown(root));
    }
    chain_.push_back(path);
    read_base(root, source);
    apply_section("", root, source);
    chain_.pop_back();
  }

  void read_text_of(const std::string& text, const std::string& name) {
    const YamlSource source{.name = name};
    const YAML::Node root = parse_text(text, source);
    if (!root.IsMap()) {
      throw UsageError("[config] " + name + ": expected keys and values, got " + shown(root));
    }
    apply_section("", root, source);
  }

  void apply_override(const std::string& text) {
    const size_t equals = text.find('=');
    if (equals == std::string::npos || equals == 0) {
      throw UsageError("[config] --set " + text + ": expected key=value, as in train.steps=50");
    }
    const YamlSource source{.name = "--set", .bare_strings = true};
    const std::string key = text.substr(0, equals);
    const YamlSource named{.name = "--set " + key};
    apply(key, parse_text(text.substr(equals + 1), named), source.name, source);
  }

 private:
  void read_base(const YAML::Node& root, const YamlSource& source) {
    for (const auto& entry : root) {
      if (!entry.first.IsScalar() || entry.first.Scalar() != kExtends) continue;
      const std::string place = source.place(entry.first);
      if (!entry.second.IsScalar() || entry.second.Scalar().empty()) {
        throw_config_error(place, kExtends, "expected a path, got " + shown(entry.second));
      }
      const fs::path base =
          (chain_.back().parent_path() / entry.second.Scalar()).lexically_normal();
      if (!fs::is_regular_file(base)) {
        throw_config_error(
            place, kExtends,
            "expected a file, found none at " + base.string() + missing_file_hint(base));
      }
      refuse_cycle(base, place);
      read_file(base);
    }
  }

  void refuse_cycle(const fs::path& base, const std::string& place) const {
    const auto begins = std::find_if(chain_.begin(), chain_.end(), [&](const fs::path& path) {
      return fs::equivalent(path, base);
    });
    if (begins == chain_.end()) return;
    std::string cycle;
    for (auto path = begins; path != chain_.end(); ++path) cycle += path->string() + " -> ";
    throw_config_error(place, kExtends,
                       "expected a chain that ends, got a cycle: " + cycle + base.string());
  }

  void apply_section(const std::string& section, const YAML::Node& map, const YamlSource& source) {
    std::set<std::string> seen;
    for (const auto& entry : map) {
      const std::string place = source.place(entry.first);
      if (!entry.first.IsScalar()) {
        throw UsageError("[config] " + place + ": expected a key, got " + shown(entry.first));
      }
      const std::string& name = entry.first.Scalar();
      const std::string key = joined(section, name);
      if (!seen.insert(name).second) {
        throw_config_error(place, key, "expected once, got a second time");
      }
      if (section.empty() && name == kExtends && !chain_.empty()) continue;
      if (name.find('.') != std::string::npos) {
        throw_config_error(
            place, key,
            "unknown key; in a file, write " + name_of(name) + " under " + section_of(key) + ":");
      }
      apply(key, entry.second, place, source);
    }
  }

  void apply(const std::string& key, const YAML::Node& node, const std::string& place,
             const YamlSource& source) {
    if (const BoundField* bound = list_.find(key)) {
      assign_yaml(*bound, node, place, source);
      origins_[key] = place;
    } else if (!list_.is_section(key)) {
      throw_config_error(place, key, "unknown key" + unknown_key_hint(list_, key));
    } else if (node.IsMap()) {
      apply_section(key, node, source);
    } else if (!node.IsNull()) {
      throw_config_error(place, key, "expected a map of keys, got " + shown(node));
    }
  }

  const FieldList& list_;
  Origins origins_;
  std::vector<fs::path> chain_;  ///< the files being read, each extending the next
};

/// Where `key` names a whole word in `text`, or npos.
size_t find_key(const std::string& text, const std::string& key) {
  const auto continues = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '.';
  };
  for (size_t at = text.find(key); at != std::string::npos; at = text.find(key, at + 1)) {
    const size_t end = at + key.size();
    const bool starts_word = at == 0 || !continues(text[at - 1]);
    if (starts_word && (end == text.size() || !continues(text[end]))) return at;
  }
  return std::string::npos;
}

std::string origin_of(const Origins& origins, std::string key) {
  for (; !key.empty(); key = section_of(key)) {
    if (const auto found = origins.find(key); found != origins.end()) return found->second;
  }
  return "";
}

}  // namespace

Origins load_fields(const FieldList& list, const std::string& path,
                    const std::vector<std::string>& overrides) {
  if (!fs::is_regular_file(path)) {
    throw UsageError("[config] " + path + ": expected a YAML or JSON file, found none" +
                     missing_file_hint(path));
  }
  Loader loader(list);
  loader.read_file(path);
  for (const auto& text : overrides) loader.apply_override(text);
  return loader.take_origins();
}

void parse_fields(const FieldList& list, const std::string& text, const std::string& source) {
  Loader(list).read_text_of(text, source);
}

std::string config_problem(const FieldList& list, const Origins& origins, const std::string& path,
                           const std::string& key, const std::string& problem) {
  std::string place = origin_of(origins, key);
  size_t nearest = std::string::npos;
  if (place.empty()) {
    for (const auto& [other, origin] : origins) {
      const size_t at = find_key(problem, other);
      if (at < nearest && list.find(other) != nullptr) {
        nearest = at;
        place = origin;
      }
    }
  }
  return "[config] " + (place.empty() ? path : place) + ": " + key + ": " + problem;
}

}  // namespace crnet
