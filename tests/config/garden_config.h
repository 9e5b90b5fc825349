// A configuration with a field of every type, for tests.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "crnet/config/fields.h"
#include "crnet/core/error.h"

namespace crnet {

enum class Soil { kClay, kSand };

template <>
struct EnumNames<Soil> {
  static constexpr std::array<EnumName<Soil>, 2> kValues = {
      {{Soil::kClay, "clay"}, {Soil::kSand, "sand"}}};
};

struct PondConfig {
  double depth = 0.5;
  bool fish = false;

  template <class Visitor>
  void visit_fields(Visitor&& visit) {
    visit(depth, {.name = "depth", .help = "metres", .above = 0, .maximum = 3});
    visit(fish, {.name = "fish", .help = "has fish"});
  }
};

struct BedConfig {
  int64_t rows = 4;
  Soil soil = Soil::kClay;
  std::string plant = "bean";
  std::vector<int64_t> widths = {1, 2};
  IntegerOrListOrMap water = int64_t{3};
  PondConfig pond;

  template <class Visitor>
  void visit_fields(Visitor&& visit) {
    visit(rows, {.name = "rows", .help = "rows of plants", .minimum = 1});
    visit(soil, {.name = "soil", .help = "what it stands in"});
    visit(plant, {.name = "plant", .help = "what grows"});
    visit(widths, {.name = "widths", .help = "metres each", .minimum = 0});
    visit(water, {.name = "water",
                  .help = "litres",
                  .minimum = 1,
                  .map_keys = {"default", "summer", "winter"}});
    visit(pond, {.name = "pond", .help = "a pond inside"});
  }
};

struct GardenConfig {
  std::string owner = "";
  BedConfig bed;
  PondConfig pond;

  template <class Visitor>
  void visit_fields(Visitor&& visit) {
    visit(owner, {.name = "owner", .help = "whose it is"});
    visit(bed, {.name = "bed", .help = "the bed"});
    visit(pond, {.name = "pond", .help = "the pond"});
  }

  void validate() const {
    check_limits(*this);
    if (pond.fish && pond.depth < 1) {
      throw UsageError("pond.fish: expected pond.depth of 1 or more with fish, got less");
    }
  }
};

}  // namespace crnet
