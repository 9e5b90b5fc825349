#include "config/yaml_value.h"

#include <algorithm>

#include "config/value.h"
#include "crnet/core/error.h"
#include "crnet/core/format.h"

namespace crnet {

std::string YamlSource::place(const YAML::Node& node) const {
  return has_lines ? name + ":" + std::to_string(node.Mark().line + 1) : name;
}

void throw_config_error(const std::string& place, const std::string& key,
                        const std::string& problem) {
  throw UsageError("[config] " + place + ": " + key + ": " + problem);
}

std::string did_you_mean(const std::string& word, const std::vector<std::string>& candidates,
                         const std::string& prefix) {
  const std::string nearest = nearest_match(word, candidates);
  return nearest.empty() ? "" : "; did you mean " + prefix + nearest + "?";
}

namespace {

/// Whether a scalar stands without quotes, so that 300 is a number.
bool is_plain(const YAML::Node& node) {
  return node.IsScalar() && node.Tag() == "?";
}

std::string one_line(std::string text) {
  constexpr size_t kLongest = 80;
  if (text.size() > kLongest) text = text.substr(0, kLongest) + "...";
  std::replace_if(
      text.begin(), text.end(), [](unsigned char c) { return c < 0x20; }, ' ');
  return text;
}

class ValueReader {
 public:
  ValueReader(const BoundField& bound, const YAML::Node& node, const std::string& place,
              const YamlSource& source)
      : bound_(bound), node_(node), place_(place), source_(source) {}

  void operator()(bool* target) const {
    const auto value = is_plain(node_) ? parse_bool(node_.Scalar()) : std::nullopt;
    if (!value) fail();
    *target = *value;
  }

  void operator()(int64_t* target) const { *target = integer(node_, place_, bound_.key); }

  void operator()(double* target) const {
    const auto value = is_plain(node_) ? parse_number(node_.Scalar()) : std::nullopt;
    if (!value || !within_limits(bound_.field, *value)) fail();
    *target = *value;
  }

  void operator()(std::string* target) const {
    if (node_.IsNull() && source_.bare_strings) {
      target->clear();
      return;
    }
    if (!node_.IsScalar()) fail();
    const std::string& text = node_.Scalar();
    if (is_plain(node_) && !source_.bare_strings && (parse_bool(text) || parse_number(text))) {
      fail("; put it in quotes");
    }
    *target = text;
  }

  void operator()(std::vector<int64_t>* target) const {
    if (!node_.IsSequence()) fail();
    *target = list();
  }

  void operator()(IntegerOrListOrMap* target) const {
    if (node_.IsMap()) {
      if (bound_.field.map_keys.empty()) fail();
      *target = map();
    } else if (node_.IsSequence()) {
      *target = list();
    } else {
      *target = integer(node_, place_, bound_.key);
    }
  }

  void operator()(const EnumTarget& target) const {
    if (!node_.IsScalar()) fail();
    const auto found = std::find(target.names.begin(), target.names.end(), node_.Scalar());
    if (found == target.names.end()) fail(did_you_mean(node_.Scalar(), target.names));
    target.set(static_cast<size_t>(found - target.names.begin()));
  }

 private:
  [[noreturn]] void fail(const std::string& hint = "") const {
    throw_config_error(place_, bound_.key,
                       "expected " + expected_text(bound_) + ", got " + shown(node_) + hint);
  }

  int64_t integer(const YAML::Node& node, const std::string& place, const std::string& key) const {
    const auto value = is_plain(node) ? parse_integer(node.Scalar()) : std::nullopt;
    if (!value || !within_limits(bound_.field, static_cast<double>(*value))) {
      throw_config_error(place, key, "expected " + expected_text(bound_) + ", got " + shown(node));
    }
    return *value;
  }

  std::vector<int64_t> list() const {
    std::vector<int64_t> values;
    for (const auto& entry : node_) values.push_back(integer(entry, place_, bound_.key));
    return values;
  }

  std::map<std::string, int64_t> map() const {
    const auto& allowed = bound_.field.map_keys;
    std::map<std::string, int64_t> values;
    for (const auto& entry : node_) {
      const std::string place = source_.place(entry.first);
      if (!entry.first.IsScalar()) {
        throw_config_error(place, bound_.key, "expected a name, got " + shown(entry.first));
      }
      const std::string& name = entry.first.Scalar();
      const std::string key = bound_.key + "." + name;
      if (std::find(allowed.begin(), allowed.end(), name) == allowed.end()) {
        throw_config_error(place, key,
                           "unknown key" + did_you_mean(name, allowed, bound_.key + "."));
      }
      if (!values.emplace(name, integer(entry.second, place, key)).second) {
        throw_config_error(place, key, "expected once, got a second time");
      }
    }
    return values;
  }

  const BoundField& bound_;
  const YAML::Node& node_;
  const std::string& place_;
  const YamlSource& source_;
};

}  // namespace

std::string shown(const YAML::Node& node) {
  if (node.IsMap()) return "a map";
  if (node.IsSequence()) return "a list";
  if (!node.IsScalar()) return "nothing";
  return is_plain(node) ? one_line(node.Scalar()) : "\"" + one_line(node.Scalar()) + "\"";
}

void assign_yaml(const BoundField& bound, const YAML::Node& node, const std::string& place,
                 const YamlSource& source) {
  std::visit(ValueReader(bound, node, place, source), bound.target);
}

}  // namespace crnet
