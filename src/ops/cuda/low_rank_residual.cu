// What surrounds the products of the low-rank residual.
#include "ops/cuda/device.h"

namespace crnet::CRNET_CUDA_NAMESPACE {
namespace {

__global__ void write_scales(const float* beta, float epsilon, float* scales) {
  const float b = *beta;
  if (threadIdx.x == 0) scales[0] = b >= 0 ? b + epsilon : b - epsilon;
  if (threadIdx.x == 1) scales[1] = 1;
}

// Every block leaves its sum in `partial`.
template <class T, int kWidth, CrossLayerPass kPass, bool kDots>
__global__ void cross_layer_elements(const T* __restrict__ dy, const T* __restrict__ y_prev,
                                     const float* __restrict__ c, T* __restrict__ out,
                                     float* __restrict__ partial, int64_t count) {
  const float scale = kPass == CrossLayerPass::kDot ? 0 : *c;
  float sum = 0;
  for_each_pack<kWidth>(count, [&](auto width, int64_t i) {
    constexpr int kCount = decltype(width)::value;
    auto d = load<kCount>(dy + i);
    if constexpr (kPass == CrossLayerPass::kAdd) {
      d = plus_scaled(d, scale, load<kCount>(out + i));
      store(out + i, d);
    }
    if constexpr (kDots) add_products(sum, d, load<kCount>(y_prev + i));
    if constexpr (kPass == CrossLayerPass::kScale) {
#pragma unroll
      for (int k = 0; k < kCount; ++k) d[k] *= scale;
      store(out + i, d);
    }
  });
  if constexpr (kDots) {
    sum = block_sum(sum);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
  }
}

template <class T, int kWidth>
__global__ void subtract_and_divide_elements(const T* __restrict__ y, T* __restrict__ product,
                                             float c, int64_t count) {
  for_each_pack<kWidth>(count, [&](auto width, int64_t i) {
    constexpr int kCount = decltype(width)::value;
    const auto v = load<kCount>(y + i);
    auto p = load<kCount>(product + i);
#pragma unroll
    for (int k = 0; k < kCount; ++k) p[k] = (v[k] - p[k]) / c;
    store(product + i, p);
  });
}

}  // namespace

void signed_scale(const float* beta, float epsilon, float* scales, Stream stream) {
  launch(write_scales, 1, kWarp, stream, beta, epsilon, scales);
}

namespace {

template <class T, CrossLayerPass kPass, bool kDots = true>
void start_cross_layer(const T* dy, const T* y_prev, const float* c, T* out, float* partial,
                       float* dot, int64_t count, Stream stream) {
  const auto start = [&](auto kernel, int width) {
    const auto blocks = std::min<int64_t>(blocks_for_elements(count, width), kDotPartials);
    launch(kernel, static_cast<unsigned>(blocks), kThreads, stream, dy, y_prev, c, out, partial,
           count);
    if (kDots) launch(sum_partials<float>, 1, kThreads, stream, partial, blocks, dot);
  };
  if (are_aligned(dy, y_prev, out)) {
    start(cross_layer_elements<T, kVector<T>, kPass, kDots>, kVector<T>);
  } else {
    start(cross_layer_elements<T, 1, kPass, kDots>, 1);
  }
}

}  // namespace

template <class T>
void cross_layer(CrossLayerPass pass, const T* dy, const T* y_prev, const float* c, T* out,
                 float* partial, float* dot, int64_t count, Stream stream) {
  switch (pass) {
    case CrossLayerPass::kDot:
      return start_cross_layer<T, CrossLayerPass::kDot>(dy, y_prev, c, out, partial, dot, count,
                                                        stream);
    case CrossLayerPass::kScale:
      return start_cross_layer<T, CrossLayerPass::kScale>(dy, y_prev, c, out, partial, dot, count,
                                                          stream);
    case CrossLayerPass::kAdd:
      break;
  }
  if (y_prev != nullptr) {
    start_cross_layer<T, CrossLayerPass::kAdd>(dy, y_prev, c, out, partial, dot, count, stream);
  } else {
    start_cross_layer<T, CrossLayerPass::kAdd, false>(dy, y_prev, c, out, partial, dot, count,
                                                      stream);
  }
}

template <class T>
void subtract_and_divide(const T* y, T* product, float c, int64_t count, Stream stream) {
  if (count == 0) return;
  const auto start = [&](auto kernel, int width) {
    launch(kernel, blocks_for_elements(count, width), kThreads, stream, y, product, c, count);
  };
  if (are_aligned(y, product)) {
    start(subtract_and_divide_elements<T, kVector<T>>, kVector<T>);
  } else {
    start(subtract_and_divide_elements<T, 1>, 1);
  }
}

template void cross_layer(CrossLayerPass, const float*, const float*, const float*, float*, float*,
                          float*, int64_t, Stream);
template void cross_layer(CrossLayerPass, const bfloat16*, const bfloat16*, const float*, bfloat16*,
                          float*, float*, int64_t, Stream);
template void subtract_and_divide(const float*, float*, float, int64_t, Stream);
template void subtract_and_divide(const bfloat16*, bfloat16*, float, int64_t, Stream);

}  // namespace crnet::CRNET_CUDA_NAMESPACE
