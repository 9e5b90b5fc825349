// Rotary position embedding: a block takes a token at a time.
#include "ops/cuda/device.h"

namespace crnet::CRNET_CUDA_NAMESPACE {
namespace {

// Within a token indices take 32 bits: divisions of 64 would cost more than the rest.
template <class T, int kWidth, bool kSums>
__global__ void rotate_tokens(const T* __restrict__ x, const float* __restrict__ cosine,
                              const float* __restrict__ sine, CarriedTo<T> carried,
                              T* __restrict__ y, float* __restrict__ partial, int64_t tokens,
                              int64_t length, unsigned heads, unsigned half, float direction) {
  const float scale = kSums ? *carried.c : 0;
  float dot = 0;
  const unsigned packs = half / kWidth;  // of half a head
  for (int64_t token = blockIdx.x; token < tokens; token += gridDim.x) {
    const int64_t angle = token % length * half, begin = token * heads * 2 * half;
    for (unsigned p = threadIdx.x; p < heads * packs; p += blockDim.x) {
      const unsigned head = p / packs, i = p % packs * kWidth;
      const int64_t first = begin + head * 2 * half + i, second = first + half;
      auto a = load<kWidth>(x + first), b = load<kWidth>(x + second);
      const auto c = load<kWidth>(cosine + angle + i), s = load<kWidth>(sine + angle + i);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) {
        const float v = a[k], w = b[k], turn = s[k] * direction;
        a[k] = v * c[k] - w * turn;
        b[k] = w * c[k] + v * turn;
      }
      if constexpr (kSums) {
        a = plus_scaled(rounded<T>(a), scale, load<kWidth>(y + first));
        b = plus_scaled(rounded<T>(b), scale, load<kWidth>(y + second));
        add_products(dot, a, load<kWidth>(carried.y_prev + first));
        add_products(dot, b, load<kWidth>(carried.y_prev + second));
      }
      store(y + first, a);
      store(y + second, b);
    }
  }
  if constexpr (kSums) {
    dot = block_sum(dot);
    if (threadIdx.x == 0) partial[blockIdx.x] = dot;
  }
}

}  // namespace

namespace {

template <class T, bool kSums>
void start_rotation(const T* x, const float* cosine, const float* sine, const CarriedTo<T>& carried,
                    T* y, float* partial, unsigned blocks, int64_t tokens, int64_t length,
                    int64_t heads, int64_t half, float direction, Stream stream) {
  const auto start = [&](auto kernel, int width) {
    launch(kernel, blocks, threads_for(heads * half / width), stream, x, cosine, sine, carried, y,
           partial, tokens, length, static_cast<unsigned>(heads), static_cast<unsigned>(half),
           direction);
  };
  if (are_aligned_rows(half, x, y, carried.y_prev, cosine, sine)) {  // null is
    start(rotate_tokens<T, kVector<T>, kSums>, kVector<T>);
  } else {
    start(rotate_tokens<T, 1, kSums>, 1);
  }
}

}  // namespace

template <class T>
void rope(const T* x, const float* cosine, const float* sine, T* y, int64_t tokens, int64_t length,
          int64_t heads, int64_t size, float direction, Stream stream) {
  const int64_t half = size / 2;
  if (tokens * heads * half == 0) return;
  start_rotation<T, false>(x, cosine, sine, {}, y, nullptr, blocks_for(tokens), tokens, length,
                           heads, half, direction, stream);
}

template <class T>
void rope_backward(const T* dy, const float* cosine, const float* sine, const CarriedTo<T>& carried,
                   T* dx, float* partial, float* dot, int64_t tokens, int64_t length, int64_t heads,
                   int64_t size, Stream stream) {
  const auto blocks = static_cast<unsigned>(std::clamp<int64_t>(tokens, 1, kDotPartials));
  start_rotation<T, true>(dy, cosine, sine, carried, dx, partial, blocks, tokens, length, heads,
                          size / 2, -1.0f, stream);
  launch(sum_partials<float>, 1, kThreads, stream, partial, int64_t{blocks}, dot);
}

template void rope(const float*, const float*, const float*, float*, int64_t, int64_t, int64_t,
                   int64_t, float, Stream);
template void rope(const bfloat16*, const float*, const float*, bfloat16*, int64_t, int64_t,
                   int64_t, int64_t, float, Stream);
template void rope_backward(const float*, const float*, const float*, const CarriedTo<float>&,
                            float*, float*, float*, int64_t, int64_t, int64_t, int64_t, Stream);
template void rope_backward(const bfloat16*, const float*, const float*, const CarriedTo<bfloat16>&,
                            bfloat16*, float*, float*, int64_t, int64_t, int64_t, int64_t, Stream);

}  // namespace crnet::CRNET_CUDA_NAMESPACE
