#include "crnet/config/load.h"

#include <gtest/gtest.h>

#include "config/config_files.h"
#include "config/garden_config.h"

namespace crnet {
namespace {

using IntegerMap = std::map<std::string, int64_t>;

LoadedConfig<GardenConfig> load(const std::string& path,
                                const std::vector<std::string>& overrides = {}) {
  return load_config<GardenConfig>(path, overrides);
}

/// The error of a file with `text`, without "[config] <path>".
std::string error_of(const std::string& text) {
  const ConfigFiles files;
  const std::string path = files.write("garden.yaml", text);
  const std::string error = usage_error([&] { load(path); });
  const std::string start = "[config] " + path;
  EXPECT_EQ(error.substr(0, start.size()), start);
  EXPECT_EQ(error.find('\n'), std::string::npos) << error;
  return error.size() < start.size() ? error : error.substr(start.size());
}

std::string override_error(const std::string& text) {
  const ConfigFiles files;
  const std::string path = files.write("garden.yaml", "owner: Ada\n");
  return usage_error([&] { load(path, {text}); });
}

TEST(ConfigLoad, EveryTypeIsRead) {
  const ConfigFiles files;
  const auto garden = load(files.write("garden.yaml", R"(
owner: "300"
bed:
  rows: 7
  soil: sand
  plant: red bean
  widths: [3, 0, 9]
  water: {default: 2, winter: 1}
  pond: {depth: 1e-1}
pond:
  depth: 3
  fish: true
)"))
                          .config;
  EXPECT_EQ(garden.owner, "300");
  EXPECT_EQ(garden.bed.rows, 7);
  EXPECT_EQ(garden.bed.soil, Soil::kSand);
  EXPECT_EQ(garden.bed.plant, "red bean");
  EXPECT_EQ(garden.bed.widths, (std::vector<int64_t>{3, 0, 9}));
  EXPECT_EQ(std::get<IntegerMap>(garden.bed.water), (IntegerMap{{"default", 2}, {"winter", 1}}));
  EXPECT_EQ(garden.bed.pond.depth, 0.1);
  EXPECT_EQ(garden.pond.depth, 3.0);
  EXPECT_TRUE(garden.pond.fish);
}

TEST(ConfigLoad, JsonIsReadWithItsLines) {
  const ConfigFiles files;
  const std::string path =
      files.write("garden.json", "{\"bed\": {\"rows\": 7,\n\t\"water\": [1,\n2]}}\n");
  const auto loaded = load(path);
  EXPECT_EQ(loaded.config.bed.rows, 7);
  EXPECT_EQ(std::get<std::vector<int64_t>>(loaded.config.bed.water), (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(loaded.origin("bed.water"), path + ":2");
}

TEST(ConfigLoad, UnknownKeyNamesTheNearestOfItsSection) {
  EXPECT_EQ(error_of("owner: Ada\nbed:\n  rowz: 3\n"),
            ":3: bed.rowz: unknown key; did you mean bed.rows?");
  EXPECT_EQ(error_of("bedd: {rows: 3}\n"), ":1: bedd: unknown key; did you mean bed?");
}

TEST(ConfigLoad, UnknownKeyThatStandsInAnotherSectionIsFoundThere) {
  EXPECT_EQ(error_of("pond:\n  rows: 3\n"), ":2: pond.rows: unknown key; did you mean bed.rows?");
}

TEST(ConfigLoad, UnknownKeyLikeNoOtherListsTheValidOnes) {
  EXPECT_EQ(error_of("pond:\n  xylophone: 3\n"),
            ":2: pond.xylophone: unknown key; valid here: depth, fish");
}

TEST(ConfigLoad, DottedKeyInAFileIsRefused) {
  EXPECT_EQ(error_of("bed.rows: 3\n"),
            ":1: bed.rows: unknown key; in a file, write rows under bed:");
}

TEST(ConfigLoad, WrongTypesAreNamed) {
  EXPECT_EQ(error_of("bed:\n  rows: many\n"), ":2: bed.rows: expected an integer >= 1, got many");
  EXPECT_EQ(error_of("bed:\n  rows: \"3\"\n"), ":2: bed.rows: expected an integer >= 1, got \"3\"");
  EXPECT_EQ(error_of("bed:\n  rows: 2.5\n"), ":2: bed.rows: expected an integer >= 1, got 2.5");
  EXPECT_EQ(error_of("bed:\n  rows:\n"), ":2: bed.rows: expected an integer >= 1, got nothing");
  EXPECT_EQ(error_of("bed:\n  rows: [1]\n"), ":2: bed.rows: expected an integer >= 1, got a list");
  EXPECT_EQ(error_of("pond:\n  fish: yes\n"), ":2: pond.fish: expected true or false, got yes");
  EXPECT_EQ(error_of("pond:\n  depth: .nan\n"),
            ":2: pond.depth: expected a number > 0 and <= 3, got .nan");
  EXPECT_EQ(error_of("owner: 300\n"), ":1: owner: expected text, got 300; put it in quotes");
  EXPECT_EQ(error_of("owner: {a: b}\n"), ":1: owner: expected text, got a map");
  EXPECT_EQ(error_of("bed: 3\n"), ":1: bed: expected a map of keys, got 3");
  EXPECT_EQ(error_of("bed:\n  widths: 3\n"),
            ":2: bed.widths: expected a list of integers >= 0, got 3");
}

TEST(ConfigLoad, UnknownEnumNamesTheNearestValue) {
  EXPECT_EQ(error_of("bed:\n  soil: sandy\n"),
            ":2: bed.soil: expected one of clay, sand, got sandy; did you mean sand?");
}

TEST(ConfigLoad, ValuesOutsideTheirLimitsAreRefused) {
  EXPECT_EQ(error_of("bed:\n  rows: 0\n"), ":2: bed.rows: expected an integer >= 1, got 0");
  EXPECT_EQ(error_of("pond:\n  depth: 0\n"),
            ":2: pond.depth: expected a number > 0 and <= 3, got 0");
  EXPECT_EQ(error_of("pond:\n  depth: 3.01\n"),
            ":2: pond.depth: expected a number > 0 and <= 3, got 3.01");
  EXPECT_EQ(error_of("bed:\n  widths: [1, -1]\n"),
            ":2: bed.widths: expected a list of integers >= 0, got -1");
  EXPECT_EQ(error_of("bed:\n  rows: 99999999999999999999\n"),
            ":2: bed.rows: expected an integer >= 1, got 99999999999999999999");
}

TEST(ConfigLoad, MapOfIntegersIsCheckedByNameAndLine) {
  const std::string forms = "expected an integer >= 1, a list of them, or a map of them";
  EXPECT_EQ(error_of("bed:\n  water:\n    default: 1\n    sumer: 2\n"),
            ":4: bed.water.sumer: unknown key; did you mean bed.water.summer?");
  EXPECT_EQ(error_of("bed:\n  water:\n    default: 1\n    winter: 0\n"),
            ":4: bed.water.winter: " + forms + ", got 0");
  EXPECT_EQ(error_of("bed:\n  water: {winter: 1, winter: 2}\n"),
            ":2: bed.water.winter: expected once, got a second time");
  EXPECT_EQ(error_of("bed:\n  water: [1, two]\n"), ":2: bed.water: " + forms + ", got two");
}

TEST(ConfigLoad, DuplicateKeyIsRefusedWhereItComesAgain) {
  EXPECT_EQ(error_of("bed:\n  rows: 2\n  rows: 3\n"),
            ":3: bed.rows: expected once, got a second time");
  EXPECT_EQ(error_of("bed:\n  rows: 2\nbed:\n  soil: sand\n"),
            ":3: bed: expected once, got a second time");
}

TEST(ConfigLoad, SyntaxErrorNamesItsLine) {
  EXPECT_EQ(error_of("bed:\n  rows: [1, 2\n  soil: sand\n").substr(0, 45),
            ":3: expected YAML or JSON, got a syntax error");
}

TEST(ConfigLoad, FileWithoutKeysIsRefused) {
  EXPECT_EQ(error_of(""), ": expected keys and values, got nothing");
  EXPECT_EQ(error_of("- a\n- b\n"), ": expected keys and values, got a list");
  EXPECT_EQ(error_of("owner: A\n---\nowner: B\n"),
            ": expected one document, got 2 separated by ---");
}

TEST(ConfigLoad, EmptySectionKeepsItsDefaults) {
  const ConfigFiles files;
  EXPECT_EQ(load(files.write("garden.yaml", "bed:\npond:\n  fish: false\n")).config.bed.rows, 4);
}

TEST(ConfigLoad, MissingFileNamesTheNearestInItsFolder) {
  const ConfigFiles files;
  const std::string there = files.write("garden.yaml", "owner: Ada\n");
  const std::string missing = files.path("gardn.yaml");
  EXPECT_EQ(usage_error([&] { load(missing); }),
            "[config] " + missing + ": expected a YAML or JSON file, found none; did you mean " +
                there + "?");
}

TEST(ConfigLoad, OfARunsFolderTheFileIsNamed) {
  const ConfigFiles files;
  const std::string there = files.write("run/config.yaml", "owner: Ada\n");
  EXPECT_EQ(usage_error([&] { load(files.path("run")); }),
            "[config] " + files.path("run") +
                ": expected a YAML or JSON file, found none; did you mean " + there + "?");
}

TEST(ConfigLoad, ValidationErrorGetsThePlaceOfItsKey) {
  EXPECT_EQ(error_of("pond:\n  depth: 0.5\n  fish: true\n"),
            ":3: pond.fish: expected pond.depth of 1 or more with fish, got less");
}

TEST(ConfigLoad, ValidationErrorOfADefaultGetsThePlaceOfTheOtherKeyNamed) {
  GardenConfig garden;
  const Origins origins = {{"bed.pond.depth", "a:1"}, {"pond.depth", "a:2"}};
  const auto list = bind_fields(garden);
  EXPECT_EQ(config_problem(list, origins, "a", "pond.fish", "expected pond.depth of 1"),
            "[config] a:2: pond.fish: expected pond.depth of 1");
  EXPECT_EQ(config_problem(list, origins, "a", "pond.fish", "no"), "[config] a: pond.fish: no");
  EXPECT_EQ(config_problem(list, {{"bed.water", "a:3"}}, "a", "bed.water.winter", "no"),
            "[config] a:3: bed.water.winter: no");
}

TEST(ConfigExtends, LaterFilesGoOnTopKeyByKey) {
  const ConfigFiles files;
  const std::string base =
      files.write("models/base.yaml", "bed:\n  rows: 2\n  soil: sand\n  plant: oat\n");
  const std::string middle =
      files.write("models/middle.yaml", "extends: base.yaml\nbed:\n  rows: 3\n  plant: rye\n");
  const std::string top =
      files.write("recipes/top.yaml", "bed:\n  rows: 5\nextends: ../models/middle.yaml\n");
  const auto loaded = load(top, {"pond.depth=2"});
  EXPECT_EQ(loaded.config.bed.rows, 5);
  EXPECT_EQ(loaded.config.bed.plant, "rye");
  EXPECT_EQ(loaded.config.bed.soil, Soil::kSand);
  EXPECT_EQ(loaded.origin("bed.rows"), top + ":2");
  EXPECT_EQ(loaded.origin("bed.plant"), middle + ":4");
  EXPECT_EQ(loaded.origin("bed.soil"), base + ":3");
  EXPECT_EQ(loaded.origin("pond.depth"), "--set");
  EXPECT_EQ(loaded.origin("pond.fish"), "default");
}

TEST(ConfigExtends, CycleIsNamedAndRefused) {
  const ConfigFiles files;
  const std::string a = files.write("a.yaml", "extends: sub/b.yaml\n");
  const std::string b = files.write("sub/b.yaml", "owner: Ada\nextends: ../a.yaml\n");
  EXPECT_EQ(usage_error([&] { load(a); }),
            "[config] " + b + ":2: extends: expected a chain that ends, got a cycle: " + a +
                " -> " + b + " -> " + a);
  const std::string self = files.write("self.yaml", "extends: self.yaml\n");
  EXPECT_EQ(usage_error([&] { load(self); }), "[config] " + self +
                                                  ":1: extends: expected a chain that ends, got a "
                                                  "cycle: " +
                                                  self + " -> " + self);
}

TEST(ConfigExtends, MissingBaseIsNamedWithTheNearestFile) {
  const ConfigFiles files;
  const std::string base = files.write("models/base.yaml", "owner: Ada\n");
  const std::string top = files.write("top.yaml", "\nextends: models/bas.yaml\n");
  EXPECT_EQ(usage_error([&] { load(top); }),
            "[config] " + top + ":2: extends: expected a file, found none at " +
                files.path("models/bas.yaml") + "; did you mean " + base + "?");
}

TEST(ConfigExtends, BaseThatIsNoPathIsRefused) {
  EXPECT_EQ(error_of("extends: [a, b]\n"), ":1: extends: expected a path, got a list");
  EXPECT_EQ(error_of("bed:\n  extends: a.yaml\n").substr(0, 28), ":2: bed.extends: unknown key");
}

TEST(ConfigOverride, ValuesAreYaml) {
  const ConfigFiles files;
  const auto loaded = load(files.write("garden.yaml", "bed:\n  rows: 7\n"),
                           {"bed.rows=9", "bed.widths=[4, 5]", "bed.water={default: 3, summer: 8}",
                            "owner=300", "bed.pond={depth: 2}", "bed.rows=10", "bed.plant="});
  EXPECT_EQ(loaded.config.bed.rows, 10);
  EXPECT_EQ(loaded.config.bed.widths, (std::vector<int64_t>{4, 5}));
  EXPECT_EQ(std::get<IntegerMap>(loaded.config.bed.water),
            (IntegerMap{{"default", 3}, {"summer", 8}}));
  EXPECT_EQ(loaded.config.owner, "300");
  EXPECT_EQ(loaded.config.bed.pond.depth, 2.0);
  EXPECT_EQ(loaded.config.bed.plant, "");
  EXPECT_EQ(loaded.origin("bed.rows"), "--set");
  EXPECT_EQ(loaded.origin("bed.pond.depth"), "--set");
}

TEST(ConfigOverride, ErrorsNameTheFlagAndTheKey) {
  EXPECT_EQ(override_error("bed.rowz=5"),
            "[config] --set: bed.rowz: unknown key; did you mean bed.rows?");
  EXPECT_EQ(override_error("bde.rows=5"),
            "[config] --set: bde.rows: unknown key; did you mean bed.rows?");
  EXPECT_EQ(override_error("rows=5"), "[config] --set: rows: unknown key; did you mean bed.rows?");
  EXPECT_EQ(override_error("bed.rows=0"),
            "[config] --set: bed.rows: expected an integer >= 1, got 0");
  EXPECT_EQ(override_error("bed.rows"),
            "[config] --set bed.rows: expected key=value, as in train.steps=50");
  EXPECT_EQ(override_error("extends=a.yaml").substr(0, 39),
            "[config] --set: extends: unknown key; v");
  EXPECT_EQ(override_error("bed.widths=[1, 2").substr(0, 46),
            "[config] --set bed.widths: expected YAML or JS");
  EXPECT_EQ(override_error("pond.fish=true"),
            "[config] --set: pond.fish: expected pond.depth of 1 or more with fish, got less");
}

TEST(ConfigLimits, ValuesSetInCodeAreChecked) {
  GardenConfig garden;
  garden.bed.water = IntegerMap{{"winter", 0}};
  EXPECT_EQ(usage_error([&] { check_limits(garden, "my"); }),
            "my.bed.water.winter: expected an integer >= 1, a list of them, or a map of them, "
            "got 0");
  garden.bed.water = int64_t{1};
  check_limits(garden);
  garden.pond.depth = 3.5;
  EXPECT_EQ(usage_error([&] { check_limits(garden); }),
            "pond.depth: expected a number > 0 and <= 3, got 3.5");
}

}  // namespace
}  // namespace crnet
