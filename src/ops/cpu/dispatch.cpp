#include "ops/cpu/attention_kernels.h"
#include "ops/cpu/kernels.h"
#include "ops/cpu/product_kernels.h"

namespace crnet::cpu {

#define CRNET_DECLARE_VARIANT(variant)                        \
  namespace variant {                                         \
  extern const Kernels<float> kFloatKernels;                  \
  extern const Kernels<bfloat16> kBFloat16Kernels;            \
  extern const AttentionKernels<float> kFloatAttention;       \
  extern const AttentionKernels<bfloat16> kBFloat16Attention; \
  extern const ProductKernels<float> kFloatProducts;          \
  extern const ProductKernels<bfloat16> kBFloat16Products;    \
  }
CRNET_DECLARE_VARIANT(baseline)
#if defined(__x86_64__)
CRNET_DECLARE_VARIANT(avx2)
CRNET_DECLARE_VARIANT(avx512)
#define CRNET_PICK(variant, name) pick(variant, baseline::name, avx2::name, avx512::name)
#else
#define CRNET_PICK(variant, name) pick(variant, baseline::name, baseline::name, baseline::name)
#endif
#undef CRNET_DECLARE_VARIANT

namespace {

Variant find_best_variant() {
  if (supports(Variant::kAvx512)) return Variant::kAvx512;
  return supports(Variant::kAvx2) ? Variant::kAvx2 : Variant::kBaseline;
}

template <class Table>
const Table& pick(Variant variant, const Table& baseline_set, const Table& avx2_set,
                  const Table& avx512_set) {
  if (variant == Variant::kAvx512) return avx512_set;
  return variant == Variant::kAvx2 ? avx2_set : baseline_set;
}

}  // namespace

Variant best_variant() {
  static const Variant variant = find_best_variant();
  return variant;
}

bool supports(Variant variant) {
#if defined(__x86_64__)
  if (variant == Variant::kAvx512) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  }
  if (variant == Variant::kAvx2) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  }
#endif
  return variant == Variant::kBaseline;
}

template <>
const Kernels<float>& kernels<float>() {
  return CRNET_PICK(best_variant(), kFloatKernels);
}
template <>
const Kernels<bfloat16>& kernels<bfloat16>() {
  return CRNET_PICK(best_variant(), kBFloat16Kernels);
}

template <>
const AttentionKernels<float>& attention_kernels<float>(Variant variant) {
  return CRNET_PICK(variant, kFloatAttention);
}
template <>
const AttentionKernels<bfloat16>& attention_kernels<bfloat16>(Variant variant) {
  return CRNET_PICK(variant, kBFloat16Attention);
}
template <>
const AttentionKernels<float>& attention_kernels<float>() {
  return attention_kernels<float>(best_variant());
}
template <>
const AttentionKernels<bfloat16>& attention_kernels<bfloat16>() {
  return attention_kernels<bfloat16>(best_variant());
}

template <>
const ProductKernels<float>& product_kernels<float>(Variant variant) {
  return CRNET_PICK(variant, kFloatProducts);
}
template <>
const ProductKernels<bfloat16>& product_kernels<bfloat16>(Variant variant) {
  return CRNET_PICK(variant, kBFloat16Products);
}

}  // namespace crnet::cpu
