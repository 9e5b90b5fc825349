// Copies of matrices, in fp32 or in pairs of bf16, laid out as tiles read them.
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

// One step of a matrix whose depth lies across: the numbers of `row`, or pairs of them and what is
// `across` of them; zeros behind `count`.
template <class V, bool kPairs, class T>
inline V load_step(const T* row, int64_t across, bool has_second, int64_t count) {
  const V first = load_part<V>(row, count);
  if constexpr (kPairs) {
    return pair_up(first, has_second ? load_part<V>(row + across, count) : V{});
  } else {
    return first;
  }
}

// x [rows, width] in fp32 [rows, padded].
template <class T>
void pack_wide(const T* x, int64_t stride, int64_t rows, int64_t width, float* wide) {
  const int64_t padded = round_up(width, kTileColumns);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t d = 0; d < padded; d += kLanes) {
      store_vector(wide + i * padded + d, load_part<Vector>(x + i * stride + d, width - d));
    }
  }
}

// x [rows, width] as panels of its columns [padded / kTileColumns, steps of rows, kTileColumns],
// for a product that adds up over the rows.
template <class T>
void pack_panels(const T* x, int64_t stride, int64_t rows, int64_t width, float* panels) {
  const int64_t padded = round_up(width, kTileColumns), steps = steps_of<T>(rows);
  for (int64_t step = 0; step < steps; ++step) {
    const int64_t i = step * TermsOf<T>::kDepth;
    for (int64_t d = 0; d < padded; d += kLanes) {
      float* const panel = panels + d / kTileColumns * steps * kTileColumns;
      store_vector(
          panel + step * kTileColumns + d % kTileColumns,
          load_step<Vector, kInPairs<T>>(x + i * stride + d, stride, i + 1 < rows, width - d));
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
