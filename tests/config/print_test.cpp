#include "crnet/config/print.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "config/config_files.h"
#include "config/garden_config.h"
#include "config/json.h"

namespace crnet {
namespace {

GardenConfig unusual_garden() {
  GardenConfig garden;
  garden.owner = "a: \"b\" # \\ c\n\xc3\xa9";
  garden.bed.rows = 9007199254740993;  // no double has this value
  garden.bed.soil = Soil::kSand;
  garden.bed.plant = "12";
  garden.bed.widths = {};
  garden.bed.water = std::map<std::string, int64_t>{{"default", 4}, {"winter", 2}};
  garden.bed.pond.depth = 0.1 + 0.2;
  garden.pond = {.depth = 1e-9, .fish = false};
  return garden;
}

void expect_same(const GardenConfig& a, const GardenConfig& b) {
  EXPECT_EQ(a.owner, b.owner);
  EXPECT_EQ(a.bed.rows, b.bed.rows);
  EXPECT_EQ(a.bed.soil, b.bed.soil);
  EXPECT_EQ(a.bed.plant, b.bed.plant);
  EXPECT_EQ(a.bed.widths, b.bed.widths);
  EXPECT_EQ(a.bed.water, b.bed.water);
  EXPECT_EQ(a.bed.pond.depth, b.bed.pond.depth);
  EXPECT_EQ(a.pond.depth, b.pond.depth);
  EXPECT_EQ(a.pond.fish, b.pond.fish);
}

TEST(ConfigYaml, PrintedValuesReadBackTheSame) {
  const ConfigFiles files;
  const GardenConfig garden = unusual_garden();
  expect_same(load_config<GardenConfig>(files.write("g.yaml", to_yaml(garden))).config, garden);
}

TEST(ConfigYaml, EveryValueIsFollowedByItsSource) {
  const ConfigFiles files;
  const std::string path = files.write("g.yaml", "bed:\n  rows: 7\n");
  EXPECT_EQ(to_yaml(load_config<GardenConfig>(path, {"pond.depth=2e-6"})),
            "owner: \"\"  # default\n"
            "bed:\n"
            "  rows: 7  # " +
                path +
                ":2\n"
                "  soil: clay  # default\n"
                "  plant: bean  # default\n"
                "  widths: [1, 2]  # default\n"
                "  water: 3  # default\n"
                "  pond:\n"
                "    depth: 0.5  # default\n"
                "    fish: false  # default\n"
                "pond:\n"
                "  depth: 2e-6  # --set\n"
                "  fish: false  # default\n");
}

TEST(ConfigJson, RoundTripKeepsEveryValue) {
  const GardenConfig garden = unusual_garden();
  const std::string text = to_json(garden).dump();
  expect_same(from_json<GardenConfig>(nlohmann::json::parse(text), "manifest.json"), garden);
}

TEST(ConfigJson, FileOfJsonReadsAsTheSameFileOfYaml) {
  const ConfigFiles files;
  const GardenConfig garden = unusual_garden();
  const auto json = load_config<GardenConfig>(files.write("g.json", to_json(garden).dump(1)));
  const auto dense = load_config<GardenConfig>(files.write("d.json", to_json(garden).dump()));
  const auto yaml = load_config<GardenConfig>(files.write("g.yaml", to_yaml(garden)));
  expect_same(json.config, yaml.config);
  expect_same(dense.config, yaml.config);
}

TEST(ConfigJson, ReadingIsStrict) {
  const auto error = [](const char* text) {
    return usage_error(
        [&] { (void)from_json<GardenConfig>(nlohmann::json::parse(text), "m.json"); });
  };
  EXPECT_EQ(error(R"({"bed": {"rowz": 1}})"),
            "[config] m.json: bed.rowz: unknown key; did you mean bed.rows?");
  EXPECT_EQ(error(R"({"bed": {"rows": "1"}})"),
            "[config] m.json: bed.rows: expected an integer >= 1, got \"1\"");
  EXPECT_EQ(error(R"({"extends": "a.yaml"})").substr(0, 38),
            "[config] m.json: extends: unknown key;");
  EXPECT_EQ(error(R"({"pond": {"fish": true}})"),
            "[config] m.json: pond.fish: expected pond.depth of 1 or more with fish, got less");
  EXPECT_EQ(error("[]"), "[config] m.json: expected keys and values, got a list");
}

TEST(ConfigSchema, EveryKeyHasItsTypeDefaultAndMeaning) {
  GardenConfig garden;
  const auto list = bind_fields(garden);
  const auto schema = json_schema(list, "garden");
  for (const auto& bound : list.fields) {
    auto pointer = std::string("/properties/") + bound.key;
    for (size_t dot; (dot = pointer.find('.')) != std::string::npos;) {
      pointer.replace(dot, 1, "/properties/");
    }
    const auto entry = schema.at(nlohmann::ordered_json::json_pointer(pointer));
    EXPECT_TRUE(entry.contains("type")) << bound.key;
    EXPECT_TRUE(entry.contains("default")) << bound.key;
    EXPECT_EQ(entry.at("description"), bound.field.help) << bound.key;
  }
  const auto& bed = schema.at("properties").at("bed");
  EXPECT_EQ(bed.at("additionalProperties"), false);
  EXPECT_EQ(bed.at("properties").at("rows").dump(),
            R"({"type":"integer","minimum":1,"default":4,"description":"rows of plants"})");
  EXPECT_EQ(bed.at("properties").at("soil").at("enum").dump(), R"(["clay","sand"])");
  EXPECT_EQ(schema.at("properties").at("pond").at("properties").at("depth").dump(),
            R"({"type":"number","exclusiveMinimum":0,"maximum":3,"default":0.5,)"
            R"("description":"metres"})");
  EXPECT_EQ(schema.at("properties").at("extends").at("type"), "string");
}

TEST(ConfigSchema, ThreeFormsOfAnIntegerAreAllowed) {
  GardenConfig garden;
  const auto schema = json_schema(bind_fields(garden), "garden");
  const auto& forms = schema.at("properties").at("bed").at("properties").at("water").at("anyOf");
  ASSERT_EQ(forms.size(), 3u);
  EXPECT_EQ(forms[0].dump(), R"({"type":"integer","minimum":1})");
  EXPECT_EQ(forms[1].dump(), R"({"type":"array","items":{"type":"integer","minimum":1}})");
  EXPECT_EQ(forms[2].at("additionalProperties"), false);
  EXPECT_TRUE(forms[2].at("properties").contains("winter"));
}

TEST(ConfigHelp, EveryKeyHasOneLine) {
  GardenConfig garden;
  const std::string text = describe_keys(bind_fields(garden));
  EXPECT_NE(text.find("  bed.rows        rows of plants [an integer >= 1; 4]\n"), std::string::npos)
      << text;
}

}  // namespace
}  // namespace crnet
