// Rotary position embedding: a block takes a token at a time.
#include "ops/cuda/device.h"

namespace crnet::CRNET_CUDA_NAMESPACE {
namespace {

// Within a token indices take 32 bits: divisions of 64 would cost more than the rest.
template <class T, int kWidth>
__global__ void rotate_tokens(const T* __restrict__ x, const float* __restrict__ cosine,
                              const float* __restrict__ sine, T* __restrict__ y, int64_t tokens,
                              int64_t length, unsigned heads, unsigned half, float direction) {
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
      store(y + first, a);
      store(y + second, b);
    }
  }
}

}  // namespace

template <class T>
void rope(const T* x, const float* cosine, const float* sine, T* y, int64_t tokens, int64_t length,
          int64_t heads, int64_t size, float direction, Stream stream) {
  const int64_t half = size / 2;
  if (tokens * heads * half == 0) return;
  const auto start = [&](auto kernel, int width) {
    launch(kernel, blocks_for(tokens), threads_for(heads * half / width), stream, x, cosine, sine,
           y, tokens, length, static_cast<unsigned>(heads), static_cast<unsigned>(half), direction);
  };
  if (are_aligned_rows(half, x, y, cosine, sine)) {
    start(rotate_tokens<T, kVector<T>>, kVector<T>);
  } else {
    start(rotate_tokens<T, 1>, 1);
  }
}

template void rope(const float*, const float*, const float*, float*, int64_t, int64_t, int64_t,
                   int64_t, float, Stream);
template void rope(const bfloat16*, const float*, const float*, bfloat16*, int64_t, int64_t,
                   int64_t, int64_t, float, Stream);

}  // namespace crnet::CRNET_CUDA_NAMESPACE
