// Copies of matrices in fp32, laid out as tiles read them.
#pragma once

#include <utility>

#include "ops/cpu/tile.h"

namespace crnet::cpu::CRNET_CPU_VARIANT {
namespace {

constexpr int64_t round_up(int64_t n, int64_t unit) {
  return (n + unit - 1) / unit * unit;
}

inline int64_t smaller(int64_t a, int64_t b) {
  return a < b ? a : b;
}

// x [rows, width] as `wide` [rows, padded] and as panels of its columns
// [padded / kTileColumns, rows, kTileColumns]; either may be null.
template <class T>
void pack(const T* x, int64_t stride, int64_t rows, int64_t width, float* wide, float* panels) {
  const int64_t padded = round_up(width, kTileColumns);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t d = 0; d < padded; d += kLanes) {
      const Vector v = load_part<Vector>(x + i * stride + d, width - d);
      if (wide != nullptr) store_vector(wide + i * padded + d, v);
      if (panels != nullptr) {
        const int64_t panel = d / kTileColumns * rows * kTileColumns;
        store_vector(panels + panel + i * kTileColumns + d % kTileColumns, v);
      }
    }
  }
}

// x [rows, width] in bf16 as panels of pairs of rows [padded / kTileColumns, ⌈rows / 2⌉,
// kTileColumns]; zeros behind an odd last row.
inline void pack_row_pairs(const bfloat16* x, int64_t stride, int64_t rows, int64_t width,
                           float* panels) {
  const int64_t padded = round_up(width, kTileColumns), pairs = (rows + 1) / 2;
  for (int64_t i = 0; i < pairs; ++i) {
    const bfloat16* const first = x + 2 * i * stride;
    const bool has_second = 2 * i + 1 < rows;
    for (int64_t d = 0; d < padded; d += kLanes) {
      const Vector a = load_part<Vector>(first + d, width - d);
      const Vector b = has_second ? load_part<Vector>(first + stride + d, width - d) : Vector{};
      const int64_t panel = d / kTileColumns * pairs * kTileColumns;
      store_vector(panels + panel + i * kTileColumns + d % kTileColumns, pair_up(a, b));
    }
  }
}

template <class V, class Half, size_t... kLane>
inline V join(Half a, Half b, std::index_sequence<kLane...>) {
  return __builtin_shufflevector(a, b, kLane...);
}

// Four elements, from column d on, of every fourth of kCount rows.
template <int kCount, class T>
inline auto load_fours(const T* const* rows, int64_t d, int64_t width) {
  using V = typename VectorOf<float, kCount>::Type;
  if constexpr (kCount == 4) {
    return load_part<V>(rows[0] + d, width - d);
  } else {
    return join<V>(load_fours<kCount / 2>(rows, d, width),
                   load_fours<kCount / 2>(rows + kCount / 2, d, width),
                   std::make_index_sequence<kCount>());
  }
}

// Interleaves within each four lanes: a0 b0 a1 b1, or a2 b2 a3 b3.
template <int kFirst, size_t... kLane>
inline Vector interleave(Vector a, Vector b, std::index_sequence<kLane...>) {
  return __builtin_shufflevector(
      a, b, (kLane / 4 * 4 + kFirst + kLane % 4 / 2 + (kLane % 2 == 0 ? 0 : kLanes))...);
}
inline Vector low(Vector a, Vector b) {
  return interleave<0>(a, b, std::make_index_sequence<kLanes>());
}
inline Vector high(Vector a, Vector b) {
  return interleave<2>(a, b, std::make_index_sequence<kLanes>());
}

// A panel [width, columns] of the transpose of x [rows, width]; `columns` are whole vectors. The
// last row stands in the place of those behind it.
template <class T>
void pack_transposed_panel(const T* x, int64_t stride, int64_t rows, int64_t width, int64_t columns,
                           float* panel) {
  for (int64_t i = 0; i < columns; i += kLanes) {
    const T* from[kLanes];
    for (int k = 0; k < kLanes; ++k) from[k] = x + smaller(i + k, rows - 1) * stride;
    for (int64_t d = 0; d < width; d += 4) {
      const Vector r0 = load_fours<kLanes>(from, d, width);
      const Vector r1 = load_fours<kLanes>(from + 1, d, width);
      const Vector r2 = load_fours<kLanes>(from + 2, d, width);
      const Vector r3 = load_fours<kLanes>(from + 3, d, width);
      const Vector fours[4] = {low(low(r0, r2), low(r1, r3)), high(low(r0, r2), low(r1, r3)),
                               low(high(r0, r2), high(r1, r3)), high(high(r0, r2), high(r1, r3))};
      for (int64_t k = 0; k < 4 && d + k < width; ++k) {
        store_vector(panel + (d + k) * columns + i, fours[k]);
      }
    }
  }
}

// All of them: [⌈rows / kTileColumns⌉, width, kTileColumns].
template <class T>
void pack_transposed(const T* x, int64_t stride, int64_t rows, int64_t width, float* panels) {
  for (int64_t i = 0; i < rows; i += kTileColumns) {
    pack_transposed_panel(x + i * stride, stride, rows - i, width, kTileColumns,
                          panels + i * width);
  }
}

}  // namespace
}  // namespace crnet::cpu::CRNET_CPU_VARIANT
