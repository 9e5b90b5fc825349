// Vectors of the widest kind that a variant has, and how they are loaded and stored.
#pragma once

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

#include "ops/cpu/elements.h"

namespace crnet::cpu::CRNET_CPU_VARIANT {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

template <class Element, int kCount>
struct VectorOf {
  typedef Element Type __attribute__((vector_size(kCount * sizeof(Element))));
};
using Vector = VectorOf<float, kLanes>::Type;
using Integers = VectorOf<int32_t, kLanes>::Type;

template <class V>
inline V load_as(const float* p) {
  V v;
  memcpy(&v, p, sizeof(v));
  return v;
}

template <class V>
using HalvesOf = typename VectorOf<uint16_t, sizeof(V) / sizeof(float)>::Type;
template <class V>
inline V widen(HalvesOf<V> halves) {
  using Bits = typename VectorOf<uint32_t, sizeof(V) / sizeof(float)>::Type;
  return reinterpret_cast<V>(__builtin_convertvector(halves, Bits) << 16);
}
template <class V>
inline V load_as(const bfloat16* p) {
  HalvesOf<V> halves;
  memcpy(&halves, p, sizeof(halves));
  return widen<V>(halves);
}

// As store() of one number; by the processor's own rounding numbers below 2^−126 are 0.
template <class V>
inline HalvesOf<V> round_to_halves(V v) {
  using Bits = typename VectorOf<uint32_t, sizeof(V) / sizeof(float)>::Type;
  const Bits bits = reinterpret_cast<Bits>(v);
  const Bits rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const Bits chosen = (bits & 0x7fffffffu) > 0x7f800000u ? Bits{} + 0x7fc0u : rounded;
  return __builtin_convertvector(chosen, HalvesOf<V>);
}
#if defined(__AVX512BF16__)
inline HalvesOf<Vector> round_to_halves(Vector v) {
  return reinterpret_cast<HalvesOf<Vector>>(_mm512_cvtneps_pbh(reinterpret_cast<__m512>(v)));
}
inline HalvesOf<VectorOf<float, 8>::Type> round_to_halves(VectorOf<float, 8>::Type v) {
  return reinterpret_cast<HalvesOf<VectorOf<float, 8>::Type>>(
      _mm256_cvtneps_pbh(reinterpret_cast<__m256>(v)));
}
#endif

// Two vectors of widened bf16 numbers as pairs.
template <class V>
inline V pair_up(V first, V second) {
  using Bits = typename VectorOf<uint32_t, sizeof(V) / sizeof(float)>::Type;
  return reinterpret_cast<V>(reinterpret_cast<Bits>(second) | reinterpret_cast<Bits>(first) >> 16);
}

// fp32 numbers in memory that are read as bf16: one, or two in the place of one fp32 number.
struct Rounded {
  float value;
};
struct RoundedPair {
  float values[2];
};
template <class V>
inline V load_as(const Rounded* p) {
  return widen<V>(round_to_halves(load_as<V>(&p->value)));
}
template <class V>
inline V load_as(const RoundedPair* p) {
  using Both = typename VectorOf<float, 2 * sizeof(V) / sizeof(float)>::Type;
  return reinterpret_cast<V>(round_to_halves(load_as<Both>(reinterpret_cast<const float*>(p))));
}

// The first `count` elements; zeros behind them.
template <class V, class T>
inline V load_part(const T* p, int64_t count) {
  constexpr int64_t kCount = sizeof(V) / sizeof(float);
  if (count >= kCount) return load_as<V>(p);
  T elements[kCount] = {};
  if (count > 0) memcpy(elements, p, static_cast<size_t>(count) * sizeof(T));
  return load_as<V>(elements);
}

template <class V>
inline void store_vector(float* p, V v) {
  memcpy(p, &v, sizeof(v));
}

inline void store_vector(bfloat16* p, Vector v) {
  const auto halves = round_to_halves(v);
  memcpy(p, &halves, sizeof(halves));
}

inline float sum_of(Vector v) {
  float sum = 0;
  for (int i = 0; i < kLanes; ++i) sum += v[i];
  return sum;
}

// 2^x to about 2 ulp for x ≤ 0, up to rounding. Below 2^−80, which is nothing beside 1, it stops,
// so that products stay normal numbers. The integer of a NaN is any: its p is NaN already.
inline Vector exp2_fast(Vector x) {
  x = x < -80.0f ? Vector{} - 80.0f : x;
  const Integers n = __builtin_convertvector(x - 0.5f, Integers);  // rounds x to the nearest
  const Vector f = x - __builtin_convertvector(n, Vector);
  Vector p = f * 1.3264727e-3f + 9.6715130e-3f;  // minimax for −1/2 ≤ f ≤ 1/2
  p = p * f + 5.5507336e-2f;
  p = p * f + 2.4022242e-1f;
  p = p * f + 6.9314700e-1f;
  p = p * f + 1.0f;
  return reinterpret_cast<Vector>(reinterpret_cast<Integers>(p) + (n << 23));
}

}  // namespace
}  // namespace crnet::cpu::CRNET_CPU_VARIANT
