#include "crnet/config/fields.h"

#include <algorithm>

#include "config/value.h"
#include "crnet/core/error.h"

namespace crnet {

const BoundField* FieldList::find(const std::string& key) const {
  const auto found = std::find_if(fields.begin(), fields.end(),
                                  [&](const BoundField& bound) { return bound.key == key; });
  return found == fields.end() ? nullptr : &*found;
}

bool FieldList::is_section(const std::string& key) const {
  return std::any_of(sections.begin(), sections.end(),
                     [&](const Section& section) { return section.key == key; });
}

namespace {

class LimitCheck {
 public:
  explicit LimitCheck(const BoundField& bound) : bound_(bound) {}

  void operator()(const int64_t* value) const { check(bound_.key, *value); }
  void operator()(const std::vector<int64_t>* list) const {
    for (const int64_t value : *list) check(bound_.key, value);
  }
  void operator()(const double* value) const {
    if (!within_limits(bound_.field, *value)) fail(bound_.key, number_text(*value));
  }
  void operator()(const IntegerOrListOrMap* value) const {
    if (const auto* map = std::get_if<std::map<std::string, int64_t>>(value)) {
      for (const auto& [name, entry] : *map) check(bound_.key + "." + name, entry);
    } else if (const auto* list = std::get_if<std::vector<int64_t>>(value)) {
      (*this)(list);
    } else {
      check(bound_.key, std::get<int64_t>(*value));
    }
  }
  void operator()(const bool*) const {}
  void operator()(const std::string*) const {}
  void operator()(const EnumTarget&) const {}

 private:
  void check(const std::string& key, int64_t value) const {
    if (!within_limits(bound_.field, static_cast<double>(value))) fail(key, std::to_string(value));
  }
  [[noreturn]] void fail(const std::string& key, const std::string& got) const {
    throw UsageError(key + ": expected " + expected_text(bound_) + ", got " + got);
  }

  const BoundField& bound_;
};

}  // namespace

void check_limits(const FieldList& list) {
  for (const auto& bound : list.fields) {
    std::visit(LimitCheck(bound), bound.target);
  }
}

}  // namespace crnet
