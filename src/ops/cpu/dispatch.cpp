#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <algorithm>
#include <cstdlib>
#include <initializer_list>
#include <string_view>

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
CRNET_DECLARE_VARIANT(avx512_bf16)
#define CRNET_PICK(variant, name) \
  pick(variant, {&baseline::name, &avx2::name, &avx512::name, &avx512_bf16::name})
#else
#define CRNET_PICK(variant, name) pick(variant, {&baseline::name})
#endif
#undef CRNET_DECLARE_VARIANT

namespace {

// By the variable that chooses among LibTorch's own loops.
Variant most_allowed() {
  const char* const value = std::getenv("ATEN_CPU_CAPABILITY");
  const std::string_view capability = value == nullptr ? "" : value;
  if (capability == "default") return Variant::kBaseline;
  if (capability == "avx2") return Variant::kAvx2;
  if (capability == "avx512") return Variant::kAvx512;
  return Variant::kAvx512Bf16;
}

Variant find_best_variant() {
  using enum Variant;
  const Variant most = most_allowed();
  for (const Variant variant : {kAvx512Bf16, kAvx512, kAvx2}) {
    if (variant <= most && supports(variant)) return variant;
  }
  return kBaseline;
}

// By the order of Variant.
template <class Table>
const Table& pick(Variant variant, std::initializer_list<const Table*> sets) {
  return **(sets.begin() + std::min(static_cast<size_t>(variant), sets.size() - 1));
}

}  // namespace

Variant best_variant() {
  static const Variant variant = find_best_variant();
  return variant;
}

bool supports(Variant variant) {
#if defined(__x86_64__)
  if (variant == Variant::kAvx512Bf16) {
    constexpr unsigned kBf16 = 1U << 5;  // of eax in leaf 7, subleaf 1
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx);
    return supports(Variant::kAvx512) && (eax & kBf16) != 0;
  }
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

bool is_amd() {
#if defined(__x86_64__)
  return __builtin_cpu_is("amd");
#else
  return false;
#endif
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
