// One list of fields per plain struct. Parsing, overrides, help, printing, JSON Schema and what a
// checkpoint stores are all driven by it, so a key exists everywhere or nowhere.
//
//   struct CacheConfig {
//     int64_t size = 16;  ///< entries
//     Eviction eviction = Eviction::kOldest;
//
//     template <class Visitor>
//     void visit_fields(Visitor&& visit) {
//       visit(size, {.name = "size", .help = "entries", .minimum = 1});
//       visit(eviction, {.name = "eviction", .help = "what leaves first"});
//     }
//   };
//   template <>
//   struct EnumNames<Eviction> {
//     static constexpr std::array<EnumName<Eviction>, 2> kValues = {
//         {{Eviction::kOldest, "oldest"}, {Eviction::kRandom, "random"}}};
//   };
//
// A member whose type has visit_fields itself is a section; its keys are joined by dots. Other
// members are bool, int64_t, double, std::string, an enum with EnumNames, std::vector<int64_t> or
// IntegerOrListOrMap.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

namespace crnet {

/// A value that is given once for all, once per entry of something, or by name.
using IntegerOrListOrMap =
    std::variant<int64_t, std::vector<int64_t>, std::map<std::string, int64_t>>;

/// What is known of a key besides its type and default. Limits hold for numbers, and for every
/// number of a list or map.
struct Field {
  static constexpr double kNoLimit = std::numeric_limits<double>::infinity();

  const char* name = "";
  const char* help = "";       ///< one line, unit included
  double minimum = -kNoLimit;  ///< least value allowed
  double above = -kNoLimit;    ///< exclusive lower limit
  double maximum = kNoLimit;   ///< greatest value allowed
  double below = kNoLimit;     ///< exclusive upper limit
  std::vector<std::string> map_keys =
      {};  ///< keys that an IntegerOrListOrMap allows in its map; none: no map
};

template <class Enum>
struct EnumName {
  Enum value;
  const char* name;
};

/// Specialised per enum with `static constexpr std::array<EnumName<Enum>, N> kValues`.
template <class Enum>
struct EnumNames;

/// The name that a configuration file has for `value`.
template <class Enum>
[[nodiscard]] const char* enum_name(Enum value) {
  for (const auto& entry : EnumNames<Enum>::kValues) {
    if (entry.value == value) return entry.name;
  }
  throw std::logic_error("an enum's value is missing in its EnumNames");
}

/// An enum member, by the position of its value in EnumNames.
struct EnumTarget {
  std::vector<std::string> names;
  std::function<std::string()> get;
  std::function<void(size_t)> set;
};

/// Where a field's value lies.
using FieldTarget = std::variant<bool*, int64_t*, double*, std::string*, std::vector<int64_t>*,
                                 IntegerOrListOrMap*, EnumTarget>;

struct BoundField {
  std::string key;  ///< full, such as "train.steps"
  Field field;
  FieldTarget target;
};

struct Section {
  std::string key;  ///< full, such as "train"
  std::string help;
};

/// The fields of one object, in order, with pointers into it: valid while the object stays put.
struct FieldList {
  std::vector<BoundField> fields;
  std::vector<Section> sections;  ///< every section before those inside it

  [[nodiscard]] const BoundField* find(const std::string& key) const;
  [[nodiscard]] bool is_section(const std::string& key) const;
};

/// The visitor that collects a FieldList.
class FieldBinder {
 public:
  FieldBinder(FieldList& list, std::string prefix) : list_(list), prefix_(std::move(prefix)) {}

  template <class T>
  void operator()(T& value, const Field& field) {
    const std::string key = prefix_.empty() ? field.name : prefix_ + "." + field.name;
    if constexpr (requires { value.visit_fields(*this); }) {
      list_.sections.push_back({key, field.help});
      value.visit_fields(FieldBinder(list_, key));
    } else if constexpr (std::is_enum_v<T>) {
      list_.fields.push_back({key, field, enum_target(value)});
    } else {
      list_.fields.push_back({key, field, &value});
    }
  }

 private:
  template <class Enum>
  static EnumTarget enum_target(Enum& value) {
    EnumTarget target;
    for (const auto& entry : EnumNames<Enum>::kValues) target.names.emplace_back(entry.name);
    target.get = [&value] { return std::string(enum_name(value)); };
    target.set = [&value](size_t index) { value = EnumNames<Enum>::kValues[index].value; };
    return target;
  }

  FieldList& list_;
  std::string prefix_;
};

/// Lists the fields of `config`, with `prefix` before every key.
template <class Config>
[[nodiscard]] FieldList bind_fields(Config& config, const std::string& prefix = "") {
  FieldList list;
  config.visit_fields(FieldBinder(list, prefix));
  return list;
}

/// Throws UsageError ("model.num_heads: expected an integer >= 1, got 0") for the first value that
/// is outside its field's limits. For values that did not come through the loader.
void check_limits(const FieldList& list);

template <class Config>
void check_limits(const Config& config, const std::string& prefix = "") {
  Config copy = config;
  check_limits(bind_fields(copy, prefix));
}

}  // namespace crnet
