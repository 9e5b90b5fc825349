#include "train/parallel_state.h"

#include <algorithm>
#include <numeric>

#include "crnet/dist/data_parallel.h"
#include "crnet/model/costs.h"
#include "dist/sharded_parameters.h"
#include "dist/sharded_unit.h"

namespace crnet {
namespace {

constexpr int64_t kFp32 = 4;
constexpr int64_t kMiB = 1024 * 1024;

// Norms, and β of every low-rank projection that has a block below.
std::vector<int64_t> small_counts(const ModelConfig& config) {
  std::vector<int64_t> counts(static_cast<size_t>(2 * config.num_layers + 1), config.hidden_size);
  if (config.architecture == Architecture::kCRNet && config.learnable_beta) {
    counts.insert(counts.end(), static_cast<size_t>(kNumProjections * (config.num_layers - 1)), 1);
  }
  return counts;
}

// Everything in each process. Gradients are copied into the Reducer's buckets, and sums of earlier
// micro-batches lie beside them.
StateMemory replicated_state(const ModelConfig& config, bool bf16, bool accumulates,
                             const Sharing& sharing) {
  StateMemory state = count_state(config, bf16, accumulates);
  state.keeps_made = false;
  state.gradients = (accumulates ? 2 : 1) * state.masters;
  if (sharing.dist.gradients == GradientPrecision::kFp32) return state;
  // A bucket is divided, then rounded; what is rounded stays until it has been summed, for which
  // nothing waits before the end.
  state.units_in_transit = state.units.size();
  int64_t largest = 0;
  for (const auto& bucket :
       reducer_buckets(lay_out_units(config, bf16, 1), sharing.dist.bucket_mib * kMiB)) {
    largest = std::max(largest, bucket.elements);
  }
  state.buffers = kFp32 * largest;
  for (auto& unit : state.units) unit.in_transit = sharing.wire_bytes() * unit.made / kFp32;
  return state;
}

StateMemory sharded_state(const ModelConfig& config, bool bf16, bool accumulates,
                          const Sharing& sharing) {
  const auto layouts = lay_out_units(config, bf16, sharing.shard_size());
  const int64_t wire = sharing.wire_bytes();
  StateMemory state;
  state.units.resize(layouts.size() - 1);
  state.units_in_transit = kSumsAtOnce + 1;  // until the first of them is waited for
  for (size_t i = 0; i < layouts.size(); ++i) {
    const UnitLayout& layout = layouts[i];
    const bool is_small = i + 1 == layouts.size();
    const bool releases = sharing.dist.shard == Sharding::kParameters && !is_small;
    const bool shares = !releases && layout.element_bytes == kFp32;  // the master is in there
    if (!releases) state.weights += layout.element_bytes * layout.whole;
    if (!shares) state.masters += kFp32 * layout.part;
    state.moments += 2 * kFp32 * layout.part;
    if (accumulates) state.gradients += kFp32 * layout.whole;
    StateMemory::Unit& unit = state.units[is_small ? 0 : i];
    if (releases) unit.gathered = layout.element_bytes * layout.whole;
    unit.made += layout.element_bytes * layout.total;
    for (const int64_t count : layout.counts) {
      unit.largest = std::max(unit.largest, layout.element_bytes * count);
    }
    // What is added up in fp32 is rounded at last.
    if (accumulates && wire < kFp32) unit.made = std::max(unit.made, wire * layout.whole);
    unit.kept += kFp32 * (layout.part - (accumulates ? layout.whole : 0));
    unit.in_transit += wire * (layout.whole + (sharing.nccl ? layout.part : layout.whole));
  }
  return state;
}

}  // namespace

bool Sharing::is_sharded() const {
  return crnet::is_sharded(dist, static_cast<int>(num_processes));
}

int64_t Sharing::shard_size() const {
  if (!is_sharded()) return 1;
  return dist.shard_group == 0 ? num_processes : dist.shard_group;
}

int64_t Sharing::wire_bytes() const {
  return dist.gradients == GradientPrecision::kBf16 ? kFp32 / 2 : kFp32;
}

Sharing sharing_of(const DistConfig& dist, int num_processes, torch::Device device) {
  return {num_processes, dist, device.is_cuda() && dist.backend != Backend::kGloo};
}

std::vector<UnitLayout> lay_out_units(const ModelConfig& config, bool bf16, int64_t shard_size) {
  auto units = count_matrix_elements(config);
  units.push_back(small_counts(config));
  std::vector<UnitLayout> layouts;
  for (size_t i = 0; i < units.size(); ++i) {
    UnitLayout& layout = layouts.emplace_back();
    const bool is_block = i > 0 && i + 2 < units.size();
    layout.counts = std::move(units[i]);
    layout.total = std::accumulate(layout.counts.begin(), layout.counts.end(), int64_t{0});
    layout.part = part_of_unit(layout.counts, shard_size);
    layout.whole = shard_size * layout.part;
    if (is_block && bf16) layout.element_bytes = kFp32 / 2;
  }
  return layouts;
}

std::vector<ReducerBucket> reducer_buckets(const std::vector<UnitLayout>& units,
                                           int64_t bucket_bytes) {
  std::vector<ReducerBucket> buckets;
  int64_t elements = 0, limit = std::min(kMiB, bucket_bytes);  // the first is small
  const auto close = [&](size_t unit, double made) {
    buckets.push_back({unit, made, elements});
    elements = 0;
    limit = bucket_bytes;
  };
  for (size_t unit = units.size() - 1; unit-- > 0;) {  // but for what is small
    const auto& counts = units[unit].counts;
    int64_t made = 0;
    for (auto count = counts.rbegin(); count != counts.rend(); ++count) {
      made += *count;
      elements += *count;
      if (kFp32 * elements < limit) continue;
      close(unit, static_cast<double>(made) / static_cast<double>(units[unit].total));
    }
  }
  elements += units.back().total;
  if (elements > 0) close(0, 1);
  return buckets;
}

StateMemory count_state(const ModelConfig& config, bool bf16, bool accumulates,
                        const Sharing& sharing) {
  if (sharing.num_processes == 1) return count_state(config, bf16, accumulates);
  return sharing.is_sharded() ? sharded_state(config, bf16, accumulates, sharing)
                              : replicated_state(config, bf16, accumulates, sharing);
}

}  // namespace crnet
