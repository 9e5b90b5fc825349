#include "crnet/model/config.h"

#include <algorithm>

#include "crnet/core/error.h"
#include "crnet/core/format.h"

namespace crnet {

namespace {

using RankList = std::vector<int64_t>;
using RankMap = std::map<std::string, int64_t>;

constexpr const char* kDefaultRank = "default";

long as_long(int64_t value) {
  return static_cast<long>(value);
}

const char* name_of(Projection projection) {
  return kProjectionNames[static_cast<size_t>(projection)];
}

void check_heads(const ModelConfig& config) {
  if (config.hidden_size % config.num_heads != 0) {
    throw UsageError(
        format("model.num_heads: expected a divisor of model.hidden_size (%ld), got %ld",
               as_long(config.hidden_size), as_long(config.num_heads)));
  }
  if (config.head_size() % 2 != 0) {
    throw UsageError(format(
        "model.num_heads: expected an even head size for rotary positions, got %ld "
        "(model.hidden_size %ld / model.num_heads %ld)",
        as_long(config.head_size()), as_long(config.hidden_size), as_long(config.num_heads)));
  }
  if (config.num_heads % config.kv_heads() != 0) {
    throw UsageError(
        format("model.num_kv_heads: expected a divisor of model.num_heads (%ld), got %ld",
               as_long(config.num_heads), as_long(config.kv_heads())));
  }
}

void check_rank_list(const ModelConfig& config, const RankList& list) {
  if (static_cast<int64_t>(list.size()) != config.num_layers) {
    throw UsageError(
        format("model.r: expected one number per block, model.num_layers (%ld), got %zu",
               as_long(config.num_layers), list.size()));
  }
}

void check_rank_map(const RankMap& map) {
  const auto names = low_rank_names();
  for (const auto& [name, r] : map) {
    if (std::find(names.begin(), names.end(), name) != names.end()) continue;
    const std::string nearest = nearest_match(name, names);
    throw UsageError("model.r." + name + ": unknown key" +
                     (nearest.empty() ? "" : "; did you mean model.r." + nearest + "?"));
  }
  if (map.count(kDefaultRank) != 0) return;
  for (const char* name : kProjectionNames) {
    if (map.count(name) == 0) {
      throw UsageError(
          std::string("model.r: expected a default or all seven projections, got none for ") +
          name);
    }
  }
}

/// The part of model.r that decides a projection's r, as a person would look it up.
std::string rank_key(const ModelConfig& config, Projection projection) {
  const auto* map = std::get_if<RankMap>(&config.r);
  if (map == nullptr) return "model.r";
  return std::string("model.r.") +
         (map->count(name_of(projection)) != 0 ? name_of(projection) : kDefaultRank);
}

void check_rank_widths(const ModelConfig& config) {
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    if (config.is_full_rank(layer)) continue;
    for (int64_t p = 0; p < kNumProjections; ++p) {
      const auto projection = static_cast<Projection>(p);
      const int64_t in = config.in_features(projection), out = config.out_features(projection);
      const int64_t r = config.low_rank(layer, projection);
      if (r <= std::min(in, out)) continue;
      throw UsageError(format("%s: expected at most %ld for %s (%ld x %ld) in block %ld, got %ld",
                              rank_key(config, projection).c_str(), as_long(std::min(in, out)),
                              name_of(projection), as_long(in), as_long(out), as_long(layer + 1),
                              as_long(r)));
    }
  }
}

}  // namespace

std::vector<std::string> low_rank_names() {
  std::vector<std::string> names = {kDefaultRank};
  names.insert(names.end(), kProjectionNames.begin(), kProjectionNames.end());
  return names;
}

int64_t ModelConfig::in_features(Projection projection) const {
  return projection == Projection::kDown ? ffn_size : hidden_size;
}

int64_t ModelConfig::out_features(Projection projection) const {
  switch (projection) {
    case Projection::kK:
    case Projection::kV:
      return kv_heads() * head_size();
    case Projection::kGate:
    case Projection::kUp:
      return ffn_size;
    default:
      return hidden_size;
  }
}

int64_t ModelConfig::output_elements() const {
  int64_t sum = 0;
  for (int64_t p = 0; p < kNumProjections; ++p) sum += out_features(static_cast<Projection>(p));
  return sum;
}

int64_t ModelConfig::low_rank(int64_t layer, Projection projection) const {
  if (const auto* list = std::get_if<RankList>(&r)) return list->at(static_cast<size_t>(layer));
  if (const auto* map = std::get_if<RankMap>(&r)) {
    const auto found = map->find(name_of(projection));
    return found != map->end() ? found->second : map->at(kDefaultRank);
  }
  return std::get<int64_t>(r);
}

bool ModelConfig::is_full_rank(int64_t layer) const {
  if (architecture == Architecture::kCRNet) return layer == 0 && !low_rank_first_block;
  return architecture == Architecture::kLlama;
}

void ModelConfig::validate() const {
  check_limits(*this, "model");
  check_heads(*this);
  if (architecture == Architecture::kLlama) return;
  if (const auto* list = std::get_if<RankList>(&r)) check_rank_list(*this, *list);
  if (const auto* map = std::get_if<RankMap>(&r)) check_rank_map(*map);
  check_rank_widths(*this);
}

}  // namespace crnet
