#include "crnet/model/state_memory.h"

#include <algorithm>
#include <numeric>

#include "crnet/model/costs.h"

namespace crnet {

StateMemory count_state(const ModelConfig& config, bool bf16, bool accumulates) {
  constexpr int64_t kFp32 = 4;
  const auto matrices = count_matrix_elements(config);
  StateMemory state;
  state.masters = kFp32 * count_parameters(config).total();
  state.moments = 2 * state.masters;
  state.gradients = accumulates ? state.masters : 0;
  state.keeps_made = !accumulates;
  int64_t small = count_parameters(config).total();
  for (size_t unit = 0; unit < matrices.size(); ++unit) {
    const auto& counts = matrices[unit];
    const int64_t sum = std::accumulate(counts.begin(), counts.end(), int64_t{0});
    const bool is_block = unit > 0 && unit + 1 < matrices.size();
    StateMemory::Unit& bytes = state.units.emplace_back();
    bytes.made = kFp32 * sum;
    if (sum > 0) bytes.largest = kFp32 * *std::max_element(counts.begin(), counts.end());
    if (is_block && bf16) bytes.copy = bytes.made / 2;
    small -= sum;
  }
  state.units.front().made += kFp32 * small;
  return state;
}

}  // namespace crnet
