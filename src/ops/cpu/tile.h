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

// Where a tile's sums go: put(i, j, sum) takes the vector that begins at row i, column j.
struct Overwrite {
  float* c;
  int64_t stride;
  void put(int64_t i, int64_t j, Vector sum) const { store_vector(c + i * stride + j, sum); }
};
struct AddTo {
  float* c;
  int64_t stride;
  void put(int64_t i, int64_t j, Vector sum) const {
    float* const to = c + i * stride + j;
    store_vector(to, load_as<Vector>(to) + sum);
  }
};

// What a product adds up: fp32 numbers, or pairs of bf16 numbers that follow each other in depth
// and lie in the place of one fp32 number.
struct Numbers {
  static Vector add(Vector sum, float left, Vector right) { return sum + left * right; }
};
#if defined(__AVX512BF16__)
struct Pairs {
  static Vector add(Vector sum, float left, Vector right) {
    return reinterpret_cast<Vector>(_mm512_dpbf16_ps(
        reinterpret_cast<__m512>(sum), reinterpret_cast<__m512bh>(_mm512_set1_ps(left)),
        reinterpret_cast<__m512bh>(right)));
  }
};
#endif

// How the numbers of T are multiplied, and how many as one.
template <class T>
struct TermsOf {
  using Type = Numbers;
  static constexpr int64_t kDepth = 1;
};
#if defined(__AVX512BF16__)
template <>
struct TermsOf<bfloat16> {
  using Type = Pairs;
  static constexpr int64_t kDepth = 2;
};
#endif
template <class T>
constexpr bool kInPairs = TermsOf<T>::kDepth == 2;

// How many of these `depth` numbers are.
template <class T>
constexpr int64_t steps_of(int64_t depth) {
  return (depth + TermsOf<T>::kDepth - 1) / TermsOf<T>::kDepth;
}

// Whether a tile can read rows of T that lie `stride` apart where they are: fp32 numbers or whole
// pairs. Rows that lie apart by whole pages would meet in few sets of the cache.
template <class T>
bool can_be_read(int64_t stride, int64_t depth) {
  constexpr int64_t kDepth = TermsOf<T>::kDepth, kPage = 4096 / sizeof(T);
  const bool is_as_packed = sizeof(T) == sizeof(float) || kInPairs<T>;
  return is_as_packed && depth % kDepth == 0 && stride % kDepth == 0 && stride % kPage != 0;
}

// a · b [kRows, kVectors · kLanes] over `depth`; b is a panel. Unrolled, so that the sums stay in
// registers, and never inlined: with a caller's variables beside them, some would not.
template <int kRows, int kVectors, Left kLeft, class Terms = Numbers, class Sink>
[[gnu::noinline]] void multiply_tile(const float* a, int64_t a_stride, const float* b,
                                     int64_t depth, Sink sink) {
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
      float left;  // may be a pair, wherever that lies
      memcpy(&left, kLeft == Left::kRows ? a + i * a_stride + k : a + k * a_stride + i,
             sizeof left);
#pragma GCC unroll 3
      for (int v = 0; v < kVectors; ++v) sums[i][v] = Terms::add(sums[i][v], left, right[v]);
    }
  }
#pragma GCC unroll 24
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 3
    for (int v = 0; v < kVectors; ++v) sink.put(i, v * kLanes, sums[i][v]);
  }
}

// Attention's tile, of any number of rows up to kTileRows.
template <Left kLeft, class Terms = Numbers, int kRows = kTileRows, class Sink>
inline void multiply_rows(int64_t rows, const float* a, int64_t a_stride, const float* b,
                          int64_t depth, Sink sink) {
  if constexpr (kRows > 1) {
    if (rows < kRows) {
      return multiply_rows<kLeft, Terms, kRows - 1>(rows, a, a_stride, b, depth, sink);
    }
  }
  multiply_tile<kRows, kTileVectors, kLeft, Terms>(a, a_stride, b, depth, sink);
}

}  // namespace
}  // namespace crnet::cpu::CRNET_CPU_VARIANT
