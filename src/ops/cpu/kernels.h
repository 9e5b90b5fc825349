// Vectorised loops over rows of plain memory, compiled once per instruction set.
//
// The callers split rows over threads; nothing here allocates or knows LibTorch, because code that
// is compiled for a newer instruction set must not share inline functions with the rest.
#pragma once

#include <cstdint>

#include "ops/cross_layer_pass.h"

namespace crnet::cpu {

/// bf16 as it lies in memory.
struct bfloat16 {
  uint16_t bits;
};

/// One set of kernels for element type T (float or bfloat16); arithmetic is in fp32.
template <class T>
struct Kernels {
  /// y = x · rsqrt(mean(x²) + epsilon) · weight, row by row; rstd [rows] keeps the rsqrt. Where
  /// `delta` is not null, of sum = x + delta in place of x.
  void (*rms_norm)(const T* x, const T* delta, const float* weight, T* sum, T* y, float* rstd,
                   int64_t rows, int64_t columns, float epsilon);
  /// dx of rms_norm, plus `dsum` where that is not null; adds this range's share of the weight's
  /// gradient to dweight [columns].
  void (*rms_norm_backward)(const T* dy, const T* x, const float* weight, const float* rstd,
                            const T* dsum, T* dx, float* dweight, int64_t rows, int64_t columns);
  /// Rotates pairs (i, i + D/2) of every head of one token: x [heads, D], cosine and sine [D/2].
  void (*rope)(const T* x, const float* cosine, const float* sine, T* y, int64_t heads,
               int64_t size, float direction);
  /// y = silu(gate) · up.
  void (*swiglu)(const T* gate, const T* up, T* y, int64_t count);
  /// Its gradients; dy becomes y once more where `becomes_y`.
  void (*swiglu_backward)(T* dy, const T* gate, const T* up, T* dgate, T* dup, int64_t count,
                          bool becomes_y);
  /// Replaces one row of logits by scale · (softmax − one_hot(target)); returns the row's loss. A
  /// target of −1 marks an ignored row: its gradient and its loss are 0.
  float (*cross_entropy_row)(T* logits, int64_t vocab, int64_t target, float scale);
  /// The row's loss alone; the logits stay.
  float (*cross_entropy_loss_row)(const T* logits, int64_t vocab, int64_t target);
  /// Returns Σ dY ⊙ y_prev; `pass` says what becomes of dy and out. In kAdd y_prev may be null, and
  /// the sum is 0 then.
  double (*cross_layer)(CrossLayerPass pass, const T* dy, const T* y_prev, T* out, float c,
                        int64_t count);
  /// product = (y − product) / c.
  void (*subtract_and_divide)(const T* y, T* product, float c, int64_t count);
};

enum class Variant { kBaseline, kAvx2, kAvx512, kAvx512Bf16 };

/// Whether this build and this processor have it.
bool supports(Variant variant);
/// The best that this processor supports, of those that ATEN_CPU_CAPABILITY (default, avx2, avx512)
/// leaves, if that is set at the start.
Variant best_variant();
/// Whether this is an x86 processor of AMD's.
bool is_amd();

/// The kernels for the best instruction set of this processor.
template <class T>
const Kernels<T>& kernels();

}  // namespace crnet::cpu
