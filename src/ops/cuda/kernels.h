// Fused kernels for NVIDIA GPUs over plain memory on the device: the twin of ops/cpu/kernels.h.
//
// Every function puts its work on a stream and returns: none waits for the device, none but
// residual_product allocates (LibTorch's workspace, once), and the results of two calls are equal
// to the bit. Counts may be zero. No header of LibTorch or CUDA here: C++ sources and nvcc both
// read this.
#pragma once

#include <algorithm>
#include <cstdint>

#include "ops/cross_layer_pass.h"

struct CUstream_st;

// The tests compile the kernels for the CPU, into a namespace of their own.
#ifndef CRNET_CUDA_NAMESPACE
#define CRNET_CUDA_NAMESPACE cuda
#endif

namespace crnet::CRNET_CUDA_NAMESPACE {

/// CUDA's cudaStream_t.
using Stream = CUstream_st*;

/// bf16 as it lies in memory.
struct bfloat16 {
  uint16_t bits;
};

// T is float or bfloat16; arithmetic is in fp32.

/// y = x · rsqrt(mean(x²) + epsilon) · weight, row by row; rstd [rows] keeps the rsqrt. Where
/// `delta` is not null, of sum = x + delta in place of x.
template <class T>
void rms_norm(const T* x, const T* delta, const float* weight, T* sum, T* y, float* rstd,
              int64_t rows, int64_t columns, float epsilon, Stream stream);

/// The number of sums that rms_norm_backward leaves of the weight's gradient.
inline int64_t num_partial_rows(int64_t rows, int64_t columns) {
  const int64_t enough = (int64_t{1} << 20) / std::max<int64_t>(columns, 1);  // to fill a GPU
  return std::min(rows, std::clamp<int64_t>(enough, 256, 1024));
}
/// dx of rms_norm, plus `dsum` where that is not null; fills partial [num_partial_rows, columns],
/// whose sum is the weight's gradient.
template <class T>
void rms_norm_backward(const T* dy, const T* x, const float* weight, const float* rstd,
                       const T* dsum, T* dx, float* partial, int64_t rows, int64_t columns,
                       Stream stream);

/// Partial sums that a dot wants memory for.
inline constexpr int64_t kDotPartials = 1024;
/// Of kernels that make a gradient dy, where something is carried to it, which lies in their result
/// `out`: out = dY = dy + c · out and dot = Σ dY ⊙ y_prev, as cross_layer has them in kAdd, dy
/// being rounded first.
template <class T>
struct CarriedTo {
  const T* y_prev;
  const float* c;  // on the device
};

/// Rotates pairs (i, i + size/2) of every head of every token by the angle of its place in its
/// sequence, or back where direction is −1: x [tokens, heads, size], cosine and sine
/// [length, size/2]; the tokens are whole sequences of `length`.
template <class T>
void rope(const T* x, const float* cosine, const float* sine, T* y, int64_t tokens, int64_t length,
          int64_t heads, int64_t size, float direction, Stream stream);

/// The same backwards, with what is carried to the result.
template <class T>
void rope_backward(const T* dy, const float* cosine, const float* sine, const CarriedTo<T>& carried,
                   T* dx, float* partial, float* dot, int64_t tokens, int64_t length, int64_t heads,
                   int64_t size, Stream stream);

/// y = silu(gate) · up.
template <class T>
void swiglu(const T* gate, const T* up, T* y, int64_t count, Stream stream);
/// Its gradients; dy becomes y once more where `becomes_y`.
template <class T>
void swiglu_backward(T* dy, const T* gate, const T* up, T* dgate, T* dup, bool becomes_y,
                     int64_t count, Stream stream);
/// The same, with what is carried to both gradients; partial [2, kDotPartials]. dy becomes y.
template <class T>
void swiglu_backward_carried(T* dy, const T* gate, const T* up, const CarriedTo<T>& to_gate,
                             const CarriedTo<T>& to_up, T* dgate, T* dup, float* partial,
                             float* gate_dot, float* up_dot, int64_t count, Stream stream);

/// The loss of every row of logits [rows, vocab], in losses [rows]. Where `scale` is given, one
/// number on the device, the logits become scale · (softmax − one_hot(target)). Where a target is
/// `ignored`, both are 0; where it lies outside [0, vocab), which nobody has checked, both are NaN.
template <class T>
void cross_entropy(T* logits, const int64_t* targets, int64_t ignored, const float* scale,
                   float* losses, int64_t rows, int64_t vocab, Stream stream);

/// scales[0] = c(β) as signed_scale() has it, and scales[1] = 1: cuBLAS wants both on the device.
void signed_scale(const float* beta, float epsilon, float* scales, Stream stream);

/// dot = Σ dY ⊙ y_prev, with c and dot on the device; nothing where y_prev is null, as it may be in
/// kAdd. `pass` says what becomes of dy and out.
template <class T>
void cross_layer(CrossLayerPass pass, const T* dy, const T* y_prev, const float* c, T* out,
                 float* partial, float* dot, int64_t count, Stream stream);
/// y = c · y_prev + low · b with scales = {c, 1}, by cuBLASLt: low [tokens, rank], whose rows lie
/// `low_row` ≥ rank numbers apart, b [rank, out], y_prev and y [tokens, out], y_prev ≠ y, all
/// aligned to 16 bytes. Equal operands of one `low_row` give equal bits. False, with nothing done,
/// where cuBLASLt does not have these sizes; that depends on them, `low_row`, the device, the dtype
/// and TF32 alone.
template <class T>
[[nodiscard]] bool residual_product(const T* low, int64_t low_row, const T* b, const T* y_prev,
                                    const float* scales, T* y, int64_t tokens, int64_t rank,
                                    int64_t out, Stream stream);
/// product = (y − product) / c.
template <class T>
void subtract_and_divide(const T* y, T* product, float c, int64_t count, Stream stream);

}  // namespace crnet::CRNET_CUDA_NAMESPACE
