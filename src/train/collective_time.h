// What collectives cost: the formulas of docs/scaling.md.
#pragma once

#include <cstdint>

#include "crnet/train/network.h"

namespace crnet {

/// Processes that communicate with each other.
struct Ring {
  int64_t size = 1;
  int64_t per_node = 1;  ///< of them on one node

  /// The neighbours by rank that a group of `size` consists of.
  static Ring of_neighbours(int64_t size, const Network& network);
  /// One of every `stride` processes, `size` of them.
  static Ring with_stride(int64_t size, int64_t stride, const Network& network);
};

/// What one process sends, and how long it takes.
struct Transfer {
  double bytes = 0;
  double seconds = 0;
};

/// An all-gather or a reduce-scatter; `bytes` are those of the whole tensor.
[[nodiscard]] Transfer ring_pass(double bytes, const Ring& ring, const Network& network);

/// An all-reduce: a reduce-scatter and an all-gather, or up and down a tree of nodes where hops
/// matter more.
[[nodiscard]] Transfer all_reduce(double bytes, const Ring& ring, const Network& network);

}  // namespace crnet
