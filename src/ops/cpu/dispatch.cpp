#include "ops/cpu/kernels.h"

namespace crnet::cpu {

#define CRNET_DECLARE_VARIANT(variant)             \
  namespace variant {                              \
  extern const Kernels<float> kFloatKernels;       \
  extern const Kernels<bfloat16> kBFloat16Kernels; \
  }
CRNET_DECLARE_VARIANT(baseline)
#if defined(__x86_64__)
CRNET_DECLARE_VARIANT(avx2)
CRNET_DECLARE_VARIANT(avx512)
#endif
#undef CRNET_DECLARE_VARIANT

namespace {

enum class Variant { kBaseline, kAvx2, kAvx512 };

Variant best_variant() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    return Variant::kAvx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Variant::kAvx2;
#endif
  return Variant::kBaseline;
}

template <class T>
const Kernels<T>& pick(const Kernels<T>& baseline_set, const Kernels<T>& avx2_set,
                       const Kernels<T>& avx512_set) {
  static const Variant variant = best_variant();
  if (variant == Variant::kAvx512) return avx512_set;
  return variant == Variant::kAvx2 ? avx2_set : baseline_set;
}

}  // namespace

#if defined(__x86_64__)
template <>
const Kernels<float>& kernels<float>() {
  return pick(baseline::kFloatKernels, avx2::kFloatKernels, avx512::kFloatKernels);
}
template <>
const Kernels<bfloat16>& kernels<bfloat16>() {
  return pick(baseline::kBFloat16Kernels, avx2::kBFloat16Kernels, avx512::kBFloat16Kernels);
}
#else
template <>
const Kernels<float>& kernels<float>() {
  return baseline::kFloatKernels;
}
template <>
const Kernels<bfloat16>& kernels<bfloat16>() {
  return baseline::kBFloat16Kernels;
}
#endif

}  // namespace crnet::cpu
