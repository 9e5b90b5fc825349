// Elements in memory, and e^x, for the loops that are compiled once per instruction set.
#pragma once

#include <string.h>

#include "ops/cpu/kernels.h"

namespace crnet::cpu::CRNET_CPU_VARIANT {
namespace {

inline float load(const float* p) {
  return *p;
}
inline void store(float* p, float value) {
  *p = value;
}

inline float load(const bfloat16* p) {
  const uint32_t bits = static_cast<uint32_t>(p->bits) << 16;
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

// Round to nearest even; a NaN stays a (quiet) NaN.
inline void store(bfloat16* p, float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  p->bits = static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}

// e^x with about 2 ulp, branch-free. The argument is clamped to where the result is normal.
inline float exp_fast(float x) {
  x = x < -87.0f ? -87.0f : x;
  x = x > 88.0f ? 88.0f : x;
  const float n = __builtin_rintf(x * 1.44269504088896341f);
  float r = __builtin_fmaf(n, -0.693145751953125f, x);
  r = __builtin_fmaf(n, -1.428606765330187e-06f, r);
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  // A NaN has no integer: its p is NaN already, so any finite scale will do.
  const int32_t exponent = static_cast<int32_t>(n == n ? n : 0.0f) + 127;
  const uint32_t bits = static_cast<uint32_t>(exponent) << 23;
  float scale;
  memcpy(&scale, &bits, sizeof(scale));
  return p * scale;
}

}  // namespace
}  // namespace crnet::cpu::CRNET_CPU_VARIANT
