#include "config/json.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "config/value.h"

namespace crnet {

using Json = nlohmann::ordered_json;

namespace {

Json value_json(const FieldTarget& target) {
  const auto plain = [](const auto* value) { return Json(*value); };
  return std::visit(Overloaded{plain,
                               [](const IntegerOrListOrMap* value) {
                                 return std::visit([](const auto& form) { return Json(form); },
                                                   *value);
                               },
                               [](const EnumTarget& target) { return Json(target.get()); }},
                    target);
}

/// The object that holds `key`, whose last part goes to `name`. A section is found in its parent
/// under `inner`, or directly where that is null.
Json& descend(Json& root, const std::string& key, const char* inner, std::string& name) {
  Json* object = &root;
  size_t begin = 0;
  for (size_t dot; (dot = key.find('.', begin)) != std::string::npos; begin = dot + 1) {
    const std::string section = key.substr(begin, dot - begin);
    object = inner == nullptr ? &(*object)[section] : &(*object)[inner][section];
  }
  name = key.substr(begin);
  return inner == nullptr ? *object : (*object)[inner];
}

Json number_json(double value) {
  return value == std::floor(value) && std::abs(value) < 1e15 ? Json(static_cast<int64_t>(value))
                                                              : Json(value);
}

Json number_schema(const Field& field, const char* type) {
  Json schema = {{"type", type}};
  const auto add = [&schema](const char* name, double limit) {
    if (std::isfinite(limit)) schema[name] = number_json(limit);
  };
  add("minimum", field.minimum);
  add("exclusiveMinimum", field.above);
  add("maximum", field.maximum);
  add("exclusiveMaximum", field.below);
  return schema;
}

Json list_schema(const Field& field) {
  return {{"type", "array"}, {"items", number_schema(field, "integer")}};
}

Json forms_schema(const Field& field) {
  const Json number = number_schema(field, "integer");
  if (field.map_keys.empty()) {
    return {{"type", {"integer", "array"}}, {"anyOf", {number, list_schema(field)}}};
  }
  Json properties = Json::object();
  for (const auto& name : field.map_keys) properties[name] = number;
  return {{"type", {"integer", "array", "object"}},
          {"anyOf",
           {number,
            list_schema(field),
            {{"type", "object"}, {"properties", properties}, {"additionalProperties", false}}}}};
}

Json type_schema(const BoundField& bound) {
  const Field& field = bound.field;
  return std::visit(Overloaded{[](const bool*) {
                                 return Json{{"type", "boolean"}};
                               },
                               [&](const int64_t*) { return number_schema(field, "integer"); },
                               [&](const double*) { return number_schema(field, "number"); },
                               [](const std::string*) {
                                 return Json{{"type", "string"}};
                               },
                               [&](const std::vector<int64_t>*) { return list_schema(field); },
                               [&](const IntegerOrListOrMap*) { return forms_schema(field); },
                               [](const EnumTarget& target) {
                                 return Json{{"type", "string"}, {"enum", target.names}};
                               }},
                    bound.target);
}

}  // namespace

Json fields_to_json(const FieldList& list) {
  Json root = Json::object();
  for (const auto& bound : list.fields) {
    std::string name;
    Json& parent = descend(root, bound.key, nullptr, name);
    parent[name] = value_json(bound.target);
  }
  return root;
}

void fields_from_json(const FieldList& list, const Json& json, const std::string& source) {
  // Through the YAML reader, of which JSON is a part: one set of type checks and messages.
  parse_fields(list, json.dump(2), source);
}

Json json_schema(const FieldList& list, const std::string& title) {
  Json root = {{"$schema", "https://json-schema.org/draft/2020-12/schema"},
               {"title", title},
               {"type", "object"},
               {"additionalProperties", false},
               {"properties",
                {{"extends",
                  {{"type", "string"},
                   {"description",
                    "file that is read first, relative to this one; what this file says goes on "
                    "top"}}}}}};
  std::string name;
  for (const auto& section : list.sections) {
    Json& parent = descend(root, section.key, "properties", name);
    parent[name] = {{"type", "object"},
                    {"description", section.help},
                    {"additionalProperties", false},
                    {"properties", Json::object()}};
  }
  for (const auto& bound : list.fields) {
    Json schema = type_schema(bound);
    schema["default"] = value_json(bound.target);
    schema["description"] = bound.field.help;
    descend(root, bound.key, "properties", name)[name] = schema;
  }
  return root;
}

}  // namespace crnet
