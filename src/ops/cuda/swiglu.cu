// The gated activation of the MLP, element by element.
#include "ops/cuda/device.h"

namespace crnet::CRNET_CUDA_NAMESPACE {
namespace {

// The quick division (2 ulp) is 0 where e^−x exceeds 2^126, and the sigmoid is nothing there.
__device__ inline float sigmoid(float x) {
  return __fdividef(1.0f, 1.0f + expf(-x));
}

template <class T, int kWidth>
__global__ void swiglu_elements(const T* __restrict__ gate, const T* __restrict__ up,
                                T* __restrict__ y, int64_t count) {
  for_each_pack<kWidth>(count, [&](auto width, int64_t i) {
    constexpr int kCount = decltype(width)::value;
    auto g = load<kCount>(gate + i);
    const auto u = load<kCount>(up + i);
#pragma unroll
    for (int k = 0; k < kCount; ++k) g[k] *= sigmoid(g[k]) * u[k];
    store(y + i, g);
  });
}

template <class T, int kWidth>
__global__ void swiglu_backward_elements(const T* __restrict__ dy, const T* __restrict__ gate,
                                         const T* __restrict__ up, T* __restrict__ dgate,
                                         T* __restrict__ dup, int64_t count) {
  for_each_pack<kWidth>(count, [&](auto width, int64_t i) {
    constexpr int kCount = decltype(width)::value;
    const auto d = load<kCount>(dy + i);
    auto g = load<kCount>(gate + i), u = load<kCount>(up + i);
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      const float at = g[k], s = sigmoid(at);
      g[k] = d[k] * u[k] * s * (1.0f + at * (1.0f - s));
      u[k] = d[k] * at * s;
    }
    store(dgate + i, g);
    store(dup + i, u);
  });
}

}  // namespace

template <class T>
void swiglu(const T* gate, const T* up, T* y, int64_t count, Stream stream) {
  if (count == 0) return;
  const auto start = [&](auto kernel, int width) {
    launch(kernel, blocks_for_elements(count, width), kThreads, stream, gate, up, y, count);
  };
  if (are_aligned(gate, up, y)) {
    start(swiglu_elements<T, kVector<T>>, kVector<T>);
  } else {
    start(swiglu_elements<T, 1>, 1);
  }
}

template <class T>
void swiglu_backward(const T* dy, const T* gate, const T* up, T* dgate, T* dup, int64_t count,
                     Stream stream) {
  if (count == 0) return;
  const auto start = [&](auto kernel, int width) {
    launch(kernel, blocks_for_elements(count, width), kThreads, stream, dy, gate, up, dgate, dup,
           count);
  };
  if (are_aligned(dy, gate, up, dgate, dup)) {
    start(swiglu_backward_elements<T, kVector<T>>, kVector<T>);
  } else {
    start(swiglu_backward_elements<T, 1>, 1);
  }
}

template void swiglu(const float*, const float*, float*, int64_t, Stream);
template void swiglu(const bfloat16*, const bfloat16*, bfloat16*, int64_t, Stream);
template void swiglu_backward(const float*, const float*, const float*, float*, float*, int64_t,
                              Stream);
template void swiglu_backward(const bfloat16*, const bfloat16*, const bfloat16*, bfloat16*,
                              bfloat16*, int64_t, Stream);

}  // namespace crnet::CRNET_CUDA_NAMESPACE
