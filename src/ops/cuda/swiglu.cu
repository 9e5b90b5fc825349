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

// Every block leaves its dots in `partial` [2, kDotPartials]. All of a pack is read before any of
// it is written.
template <class T, int kWidth, bool kBecomesY, bool kSums>
__global__ void swiglu_backward_elements(T* __restrict__ dy, const T* __restrict__ gate,
                                         const T* __restrict__ up, CarriedTo<T> to_gate,
                                         CarriedTo<T> to_up, T* __restrict__ dgate,
                                         T* __restrict__ dup, float* __restrict__ partial,
                                         int64_t count) {
  const float gate_scale = kSums ? *to_gate.c : 0, up_scale = kSums ? *to_up.c : 0;
  float gate_dot = 0, up_dot = 0;
  for_each_pack<kWidth>(count, [&](auto width, int64_t i) {
    constexpr int kCount = decltype(width)::value;
    using Pack = Floats<kCount>;
    Pack d = load<kCount>(dy + i), g = load<kCount>(gate + i), u = load<kCount>(up + i);
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      const float at = g[k], s = sigmoid(at), y = at * (s * u[k]);
      g[k] = d[k] * u[k] * s * (1.0f + at * (1.0f - s));
      u[k] = d[k] * at * s;
      d[k] = y;
    }
    if constexpr (kSums) {
      const Pack on_gate = load<kCount>(dgate + i), on_up = load<kCount>(dup + i);
      const Pack below_gate = load<kCount>(to_gate.y_prev + i);
      const Pack below_up = load<kCount>(to_up.y_prev + i);
      g = plus_scaled(rounded<T>(g), gate_scale, on_gate);
      u = plus_scaled(rounded<T>(u), up_scale, on_up);
      add_products(gate_dot, g, below_gate);
      add_products(up_dot, u, below_up);
    }
    if constexpr (kBecomesY) store(dy + i, d);
    store(dgate + i, g);
    store(dup + i, u);
  });
  if constexpr (kSums) {
    gate_dot = block_sum(gate_dot);
    up_dot = block_sum(up_dot);
    if (threadIdx.x == 0) partial[blockIdx.x] = gate_dot;
    if (threadIdx.x == 0) partial[kDotPartials + blockIdx.x] = up_dot;
  }
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

namespace {

template <class T, bool kBecomesY>
void start_backward(T* dy, const T* gate, const T* up, T* dgate, T* dup, int64_t count,
                    Stream stream) {
  const auto start = [&](auto kernel, int width) {
    launch(kernel, blocks_for_elements(count, width), kThreads, stream, dy, gate, up,
           CarriedTo<T>{}, CarriedTo<T>{}, dgate, dup, static_cast<float*>(nullptr), count);
  };
  if (are_aligned(dy, gate, up, dgate, dup)) {
    start(swiglu_backward_elements<T, kVector<T>, kBecomesY, false>, kVector<T>);
  } else {
    start(swiglu_backward_elements<T, 1, kBecomesY, false>, 1);
  }
}

}  // namespace

template <class T>
void swiglu_backward(T* dy, const T* gate, const T* up, T* dgate, T* dup, bool becomes_y,
                     int64_t count, Stream stream) {
  if (count == 0) return;
  const auto start = becomes_y ? start_backward<T, true> : start_backward<T, false>;
  start(dy, gate, up, dgate, dup, count, stream);
}

template <class T>
void swiglu_backward_carried(T* dy, const T* gate, const T* up, const CarriedTo<T>& to_gate,
                             const CarriedTo<T>& to_up, T* dgate, T* dup, float* partial,
                             float* gate_dot, float* up_dot, int64_t count, Stream stream) {
  const auto start = [&](auto kernel, int width) {
    const auto blocks = std::min<int64_t>(blocks_for_elements(count, width), kDotPartials);
    launch(kernel, static_cast<unsigned>(blocks), kThreads, stream, dy, gate, up, to_gate, to_up,
           dgate, dup, partial, count);
    launch(sum_partials<float>, 1, kThreads, stream, partial, blocks, gate_dot);
    launch(sum_partials<float>, 1, kThreads, stream, partial + kDotPartials, blocks, up_dot);
  };
  if (are_aligned(dy, gate, up, to_gate.y_prev, to_up.y_prev, dgate, dup)) {
    start(swiglu_backward_elements<T, kVector<T>, true, true>, kVector<T>);
  } else {
    start(swiglu_backward_elements<T, 1, true, true>, 1);
  }
}

template void swiglu(const float*, const float*, float*, int64_t, Stream);
template void swiglu(const bfloat16*, const bfloat16*, bfloat16*, int64_t, Stream);
template void swiglu_backward(float*, const float*, const float*, float*, float*, bool, int64_t,
                              Stream);
template void swiglu_backward(bfloat16*, const bfloat16*, const bfloat16*, bfloat16*, bfloat16*,
                              bool, int64_t, Stream);
template void swiglu_backward_carried(float*, const float*, const float*, const CarriedTo<float>&,
                                      const CarriedTo<float>&, float*, float*, float*, float*,
                                      float*, int64_t, Stream);
template void swiglu_backward_carried(bfloat16*, const bfloat16*, const bfloat16*,
                                      const CarriedTo<bfloat16>&, const CarriedTo<bfloat16>&,
                                      bfloat16*, bfloat16*, float*, float*, float*, int64_t,
                                      Stream);

}  // namespace crnet::CRNET_CUDA_NAMESPACE
