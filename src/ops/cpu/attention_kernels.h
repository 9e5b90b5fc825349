// Causal attention over plain memory, compiled once per instruction set; see kernels.h.
// T length, D head size, n query heads that read one head of keys and values.
#pragma once

#include "ops/cpu/kernels.h"

namespace crnet::cpu {

/// Heads in rows: element d of head h at position t is data[t · row + h · head + d].
template <class T>
struct HeadRows {
  T* data = nullptr;
  int64_t row = 0, head = 0;
};

/// Positions begin ≤ t < end.
struct Positions {
  int64_t begin = 0, end = 0;
};
/// Where ranges of queries and of keys may begin: at multiples of these.
constexpr int64_t kQueryBlock = 96, kKeyBlock = 256;

struct AttentionSizes {
  int64_t length = 0, head_size = 0, heads = 1;  // T, D, n
};

template <class T>
struct AttentionForward {
  AttentionSizes sizes;
  HeadRows<const T> q, k, v;
  HeadRows<T> out;
  float* log_sum_exp = nullptr;  // [n, T]
};

template <class T>
struct AttentionBackward {
  AttentionSizes sizes;
  HeadRows<const T> q, k, v, out, dout;
  const float* log_sum_exp = nullptr;  // [n, T]
  HeadRows<T> dq;                      // no data: not wanted
  HeadRows<T> dk, dv;                  // no data: not wanted
};

/// Causal attention with scores q kᵀ / √D. Results have the same bits however they are split.
template <class T>
struct AttentionKernels {
  /// The working memory of either function, in fp32 numbers; aligned to 64 bytes.
  int64_t (*scratch)(const AttentionSizes& sizes);
  /// out and log_sum_exp of these queries.
  void (*forward)(const AttentionForward<T>& task, Positions queries, float* scratch);
  /// dq of these queries, if all keys are there; dk and dv of these keys, if all queries are.
  void (*backward)(const AttentionBackward<T>& task, Positions queries, Positions keys,
                   float* scratch);
};

/// The kernels for the best instruction set of this processor.
template <class T>
const AttentionKernels<T>& attention_kernels();
/// Those of a variant that is supported.
template <class T>
const AttentionKernels<T>& attention_kernels(Variant variant);

}  // namespace crnet::cpu
