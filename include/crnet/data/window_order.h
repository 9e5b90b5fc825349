// A shuffle that needs no memory.
#pragma once

#include <array>
#include <cstdint>

namespace crnet {

/// A permutation of 0 … num_windows − 1 that (seed, epoch) fix on every machine. Any place of it is
/// computed by itself: a Feistel network permutes the next power of four, and results outside the
/// range are sent through it again until they fall inside (fewer than four times on average).
class WindowOrder {
 public:
  /// Throws crnet::Error for num_windows < 1.
  WindowOrder(int64_t num_windows, uint64_t seed, int64_t epoch = 0);

  /// The window at `place` of 0 … num_windows − 1.
  [[nodiscard]] int64_t at(int64_t place) const;

  [[nodiscard]] int64_t size() const { return num_windows_; }

 private:
  static constexpr int kRounds = 6;

  [[nodiscard]] uint64_t permute(uint64_t value) const;

  int64_t num_windows_;
  int half_bits_;  // The network permutes 2^(2·half_bits_) ≥ num_windows values.
  std::array<uint64_t, kRounds> keys_;
};

}  // namespace crnet
