// Products of small matrices, a tile of registers at a time. A panel is a few vectors of columns of
// a matrix, row by row, filled up to whole vectors.
#pragma once

#include "ops/cpu/vectors.h"

namespace crnet::cpu::CRNET_CPU_VARIANT {
namespace {

// A tile's sums, a row of a panel and one broadcast fill the registers.
#if defined(__AVX512F__)
constexpr int kTileSums = 24;
#else
constexpr int kTileSums = 12;
#endif
// The panels of attention.
constexpr int kTileVectors = 2, kTileColumns = kTileVectors * kLanes;
constexpr int kTileRows = kTileSums / kTileVectors;

enum class Left { kRows, kColumns };  // how the left factor lies: a[i, k] or a[k, i]
enum class Into { kOverwrite, kAdd };

// c [kRows, kVectors · kLanes] (+)= a · b over `depth`; b is a panel. Unrolled, so that the sums
// stay in registers, and never inlined: with a caller's variables beside them, some would not.
template <int kRows, int kVectors, Left kLeft, Into kInto>
[[gnu::noinline]] void multiply_tile(const float* a, int64_t a_stride, const float* b,
                                     int64_t depth, float* c, int64_t c_stride) {
  Vector sums[kRows][kVectors];
#pragma GCC unroll 24
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 3
    for (int v = 0; v < kVectors; ++v) sums[i][v] = Vector{};
  }
#pragma GCC unroll 4
  for (int64_t k = 0; k < depth; ++k) {
    Vector right[kVectors];
#pragma GCC unroll 3
    for (int v = 0; v < kVectors; ++v) {
      right[v] = load_as<Vector>(b + (k * kVectors + v) * kLanes);
    }
#pragma GCC unroll 24
    for (int i = 0; i < kRows; ++i) {
      const float left = kLeft == Left::kRows ? a[i * a_stride + k] : a[k * a_stride + i];
#pragma GCC unroll 3
      for (int v = 0; v < kVectors; ++v) sums[i][v] += left * right[v];
    }
  }
#pragma GCC unroll 24
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 3
    for (int v = 0; v < kVectors; ++v) {
      float* const to = c + i * c_stride + v * kLanes;
      store_vector(to, kInto == Into::kAdd ? load_as<Vector>(to) + sums[i][v] : sums[i][v]);
    }
  }
}

// Attention's tile, of any number of rows up to kTileRows.
template <Left kLeft, Into kInto, int kRows = kTileRows>
inline void multiply_rows(int64_t rows, const float* a, int64_t a_stride, const float* b,
                          int64_t depth, float* c, int64_t c_stride) {
  if constexpr (kRows > 1) {
    if (rows < kRows) {
      return multiply_rows<kLeft, kInto, kRows - 1>(rows, a, a_stride, b, depth, c, c_stride);
    }
  }
  multiply_tile<kRows, kTileVectors, kLeft, kInto>(a, a_stride, b, depth, c, c_stride);
}

}  // namespace
}  // namespace crnet::cpu::CRNET_CPU_VARIANT
