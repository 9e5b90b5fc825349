#include "crnet/config/print.h"

#include <algorithm>
#include <vector>

#include "config/value.h"

namespace crnet {

namespace {

std::vector<std::string> split_key(const std::string& key) {
  std::vector<std::string> parts;
  size_t begin = 0;
  for (size_t dot; (dot = key.find('.', begin)) != std::string::npos; begin = dot + 1) {
    parts.push_back(key.substr(begin, dot - begin));
  }
  parts.push_back(key.substr(begin));
  return parts;
}

}  // namespace

std::string fields_to_yaml(const FieldList& list, const Origins* origins) {
  std::string text;
  std::vector<std::string> open;  // the sections that the last line stands in
  for (const auto& bound : list.fields) {
    auto sections = split_key(bound.key);
    const std::string name = sections.back();
    sections.pop_back();
    const auto differs = std::mismatch(open.begin(), open.end(), sections.begin(), sections.end());
    for (auto next = differs.second; next != sections.end(); ++next) {
      text += std::string(2 * static_cast<size_t>(next - sections.begin()), ' ') + *next + ":\n";
    }
    open = sections;
    text += std::string(2 * sections.size(), ' ') + name + ": " + value_text(bound.target);
    if (origins != nullptr) {
      const auto found = origins->find(bound.key);
      text += "  # " + (found == origins->end() ? std::string("default") : found->second);
    }
    text += "\n";
  }
  return text;
}

std::string describe_keys(const FieldList& list) {
  size_t width = 0;
  for (const auto& bound : list.fields) width = std::max(width, bound.key.size());
  std::string text;
  for (const auto& bound : list.fields) {
    text += "  " + bound.key + std::string(width - bound.key.size() + 2, ' ') + bound.field.help +
            " [" + expected_text(bound) + "; " + value_text(bound.target) + "]\n";
  }
  return text;
}

}  // namespace crnet
