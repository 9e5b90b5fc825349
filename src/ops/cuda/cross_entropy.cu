// Softmax, loss and gradient of rows of logits: a block takes a row at a time.
#include <cfloat>
#include <cmath>

#include "ops/cuda/device.h"

namespace crnet::CRNET_CUDA_NAMESPACE {
namespace {

// The maximum of some values and the sum of e^(value − maximum), which move together, so that one
// pass over the logits finds both. A NaN gets into the sum.
struct ExpSum {
  float maximum = -FLT_MAX;  // not −inf: the difference of two would be NaN
  float sum = 0;

  template <int kWidth>
  __device__ void add(const Floats<kWidth>& values) {
    float highest = maximum;
#pragma unroll
    for (int k = 0; k < kWidth; ++k) highest = fmaxf(highest, values[k]);
    sum *= expf(maximum - highest);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) sum += expf(values[k] - highest);
    maximum = highest;
  }
  __device__ ExpSum of_block() const {
    ExpSum all;
    all.maximum = block_maximum(maximum);
    all.sum = block_sum(sum * expf(maximum - all.maximum));
    return all;
  }
};

// Without a gradient where `scale` is null.
template <class T, int kWidth>
__global__ void cross_entropy_rows(T* logits, const int64_t* __restrict__ targets, int64_t ignored,
                                   const float* __restrict__ scale, float* __restrict__ losses,
                                   int64_t rows, int64_t vocab) {
  const int64_t first = int64_t{threadIdx.x} * kWidth, step = int64_t{blockDim.x} * kWidth;
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    T* line = logits + row * vocab;
    const int64_t target = targets[row];
    if (target == ignored) {
      for (int64_t j = first; scale != nullptr && j < vocab; j += step) {
        store(line + j, Floats<kWidth>{});
      }
      if (threadIdx.x == 0) losses[row] = 0;
      continue;
    }
    const bool is_known = target >= 0 && target < vocab;
    ExpSum mine;
    for (int64_t j = first; j < vocab; j += step) mine.add(load<kWidth>(line + j));
    const ExpSum all = mine.of_block();
    const float log_sum = logf(all.sum);
    if (!is_known && threadIdx.x == 0) losses[row] = NAN;
    if (scale == nullptr) {
      if (is_known && threadIdx.x == 0)
        losses[row] = log_sum + (all.maximum - to_float(line[target]));
      continue;
    }
    const float factor = is_known ? *scale / all.sum : NAN;
    for (int64_t j = first; j < vocab; j += step) {
      auto v = load<kWidth>(line + j);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) {
        const float logit = v[k], p = expf(logit - all.maximum) * factor;
        v[k] = p < FLT_MIN ? 0.0f : p;  // as on a CPU: nothing subnormal
        if (j + k != target) continue;
        v[k] = p - *scale;
        losses[row] =
            log_sum + (all.maximum - logit);  // read here: by now others have written theirs
      }
      store(line + j, v);
    }
  }
}

}  // namespace

template <class T>
void cross_entropy(T* logits, const int64_t* targets, int64_t ignored, const float* scale,
                   float* losses, int64_t rows, int64_t vocab, Stream stream) {
  if (rows == 0) return;
  const auto start = [&](auto kernel, int width) {
    launch(kernel, blocks_for(rows), threads_for(vocab / width), stream, logits, targets, ignored,
           scale, losses, rows, vocab);
  };
  if (are_aligned_rows(vocab, logits)) {
    start(cross_entropy_rows<T, kVector<T>>, kVector<T>);
  } else {
    start(cross_entropy_rows<T, 1>, 1);
  }
}

template void cross_entropy(float*, const int64_t*, int64_t, const float*, float*, int64_t, int64_t,
                            Stream);
template void cross_entropy(bfloat16*, const int64_t*, int64_t, const float*, float*, int64_t,
                            int64_t, Stream);

}  // namespace crnet::CRNET_CUDA_NAMESPACE
