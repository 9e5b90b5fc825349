// XXH3-64, streamed or at once, as the data files use it.
#pragma once

#include <xxhash.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "crnet/core/format.h"

namespace crnet {

inline std::string hex(uint64_t hash) {
  return format("%016llx", static_cast<unsigned long long>(hash));
}

inline uint64_t checksum(std::string_view bytes, uint64_t seed = 0) {
  return XXH3_64bits_withSeed(bytes.data(), bytes.size(), seed);
}

/// The checksum of bytes that come in parts.
class RunningChecksum {
 public:
  RunningChecksum() { XXH3_64bits_reset(state_.get()); }
  void add(std::string_view bytes) { XXH3_64bits_update(state_.get(), bytes.data(), bytes.size()); }
  [[nodiscard]] uint64_t value() const { return XXH3_64bits_digest(state_.get()); }

 private:
  std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> state_{XXH3_createState(),
                                                                  XXH3_freeState};
};

}  // namespace crnet
