#include "crnet/data/window_order.h"

#include <algorithm>
#include <bit>

#include "crnet/core/error.h"
#include "crnet/core/format.h"

namespace crnet {
namespace {

// The finalizer of SplitMix64 (Steele, Lea, Flood 2014).
uint64_t mix(uint64_t x) {
  x += 0x9E3779B97F4A7C15U;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9U;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBU;
  return x ^ (x >> 31);
}

}  // namespace

WindowOrder::WindowOrder(int64_t num_windows, uint64_t seed, int64_t epoch)
    : num_windows_(num_windows) {
  if (num_windows < 1) {
    throw Error(
        format("[loader] expected windows to shuffle, got %ld", static_cast<long>(num_windows)));
  }
  const int bits = std::bit_width(static_cast<uint64_t>(num_windows - 1));
  half_bits_ = std::max(1, (bits + 1) / 2);
  uint64_t key = mix(mix(seed) ^ static_cast<uint64_t>(epoch));
  for (auto& round_key : keys_) round_key = key = mix(key);
}

int64_t WindowOrder::at(int64_t place) const {
  auto value = static_cast<uint64_t>(place);
  do {
    value = permute(value);
  } while (value >= static_cast<uint64_t>(num_windows_));
  return static_cast<int64_t>(value);
}

uint64_t WindowOrder::permute(uint64_t value) const {
  const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
  uint64_t left = value >> half_bits_, right = value & mask;
  for (const uint64_t key : keys_) {
    const uint64_t next = left ^ (mix(right ^ key) & mask);
    left = right;
    right = next;
  }
  return (left << half_bits_) | right;
}

}  // namespace crnet
