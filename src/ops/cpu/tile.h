// Products of small matrices, a tile of registers at a time. A panel is kTileColumns columns of a
// matrix, row by row, padded with zeros.
#pragma once

#include "ops/cpu/vectors.h"

namespace crnet::cpu::CRNET_CPU_VARIANT {
namespace {

// A tile's sums, a row of a panel and one broadcast fill the registers.
constexpr int kTileVectors = 2, kTileColumns = kTileVectors * kLanes;
#if defined(__AVX512F__)
constexpr int kTileRows = 12;
#else
constexpr int kTileRows = 6;
#endif

enum class Left { kRows, kColumns };  // how the left factor lies: a[i, k] or a[k, i]
enum class Into { kOverwrite, kAdd };

// c [kRows, kTileColumns] (+)= a · b over `depth`; b is a panel. Unrolled, so that the sums stay in
// registers.
template <int kRows, Left kLeft, Into kInto>
inline void multiply_tile(const float* a, int64_t a_stride, const float* b, int64_t depth, float* c,
                          int64_t c_stride) {
  Vector sums[kRows][kTileVectors];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < kTileVectors; ++v) sums[i][v] = Vector{};
  }
  for (int64_t k = 0; k < depth; ++k) {
    Vector right[kTileVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kTileVectors; ++v) {
      right[v] = load_as<Vector>(b + k * kTileColumns + v * kLanes);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const float left = kLeft == Left::kRows ? a[i * a_stride + k] : a[k * a_stride + i];
#pragma GCC unroll 2
      for (int v = 0; v < kTileVectors; ++v) sums[i][v] += left * right[v];
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < kTileVectors; ++v) {
      float* const to = c + i * c_stride + v * kLanes;
      store_vector(to, kInto == Into::kAdd ? load_as<Vector>(to) + sums[i][v] : sums[i][v]);
    }
  }
}

// The same for any number of rows up to kTileRows.
template <Left kLeft, Into kInto, int kRows = kTileRows>
inline void multiply_rows(int64_t rows, const float* a, int64_t a_stride, const float* b,
                          int64_t depth, float* c, int64_t c_stride) {
  if constexpr (kRows > 1) {
    if (rows < kRows) {
      return multiply_rows<kLeft, kInto, kRows - 1>(rows, a, a_stride, b, depth, c, c_stride);
    }
  }
  multiply_tile<kRows, kLeft, kInto>(a, a_stride, b, depth, c, c_stride);
}

}  // namespace
}  // namespace crnet::cpu::CRNET_CPU_VARIANT
