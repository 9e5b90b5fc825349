// Root-mean-square normalisation: a block takes a row at a time.
#include "ops/cuda/device.h"

namespace crnet::CRNET_CUDA_NAMESPACE {
namespace {

// A thread keeps its first pack of a row in registers, which is all of it for rows of up to
// kMaxThreads packs; what lies beyond is read again.
template <class T, int kWidth, bool kAdds>
__global__ void rms_norm_rows(const T* __restrict__ x, const T* __restrict__ delta,
                              const float* __restrict__ weight, T* sum, T* __restrict__ y,
                              float* __restrict__ rstd, int64_t rows, int64_t columns,
                              float epsilon) {
  const int64_t first = int64_t{threadIdx.x} * kWidth, step = int64_t{blockDim.x} * kWidth;
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const int64_t begin = row * columns;
    float squares = 0;
    const auto read = [&](int64_t j) {
      auto v = load<kWidth>(x + begin + j);
      if constexpr (kAdds) {
        v = rounded<T>(plus_scaled(v, 1.0f, load<kWidth>(delta + begin + j)));
        store(sum + begin + j, v);
      }
      add_products(squares, v, v);
      return v;
    };
    Floats<kWidth> kept = {};
    if (first < columns) kept = read(first);
    for (int64_t j = first + step; j < columns; j += step) read(j);
    const float r = 1.0f / sqrtf(block_sum(squares) / static_cast<float>(columns) + epsilon);
    if (threadIdx.x == 0) rstd[row] = r;
    const auto write = [&](int64_t j, Floats<kWidth> v) {
      const auto w = load<kWidth>(weight + j);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) v[k] *= r * w[k];
      store(y + begin + j, v);
    };
    if (first < columns) write(first, kept);
    const T* const normed = kAdds ? sum : x;
    for (int64_t j = first + step; j < columns; j += step)
      write(j, load<kWidth>(normed + begin + j));
  }
}

// Every block leaves its rows' share of dweight in its row of `partial`. A thread keeps kChunks
// packs of it in registers, which is all of it for rows of up to kChunks · kMaxThreads packs; what
// lies beyond it adds up in memory.
template <class T, int kWidth, int kChunks, bool kAdds>
__global__ void rms_norm_backward_rows(const T* __restrict__ dy, const T* __restrict__ x,
                                       const float* __restrict__ weight,
                                       const float* __restrict__ rstd, const T* __restrict__ dsum,
                                       T* __restrict__ dx, float* __restrict__ partial,
                                       int64_t rows, int64_t columns) {
  const int64_t first = int64_t{threadIdx.x} * kWidth, step = int64_t{blockDim.x} * kWidth;
  float* share = partial + blockIdx.x * columns;
  Floats<kWidth> kept[kChunks] = {};
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const T *g_row = dy + row * columns, *v_row = x + row * columns;
    T* dx_row = dx + row * columns;
    const float r = rstd[row];
    float dot = 0;  // Σ dy · weight · x
    const auto add_to = [&](Floats<kWidth>& sum, int64_t j) {
      const auto g = load<kWidth>(g_row + j), v = load<kWidth>(v_row + j);
      const auto w = load<kWidth>(weight + j);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) {
        dot += g[k] * w[k] * v[k];
        sum[k] += g[k] * v[k] * r;
      }
    };
#pragma unroll
    for (int chunk = 0; chunk < kChunks; ++chunk) {
      const int64_t j = first + chunk * step;
      if (j < columns) add_to(kept[chunk], j);
    }
    for (int64_t j = first + kChunks * step; j < columns; j += step) {
      auto sum = row == blockIdx.x ? Floats<kWidth>{} : load<kWidth>(share + j);
      add_to(sum, j);
      store(share + j, sum);
    }
    const float along = block_sum(dot) * r * r / static_cast<float>(columns);
    for (int64_t j = first; j < columns; j += step) {
      auto g = load<kWidth>(g_row + j);
      const auto v = load<kWidth>(v_row + j), w = load<kWidth>(weight + j);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) g[k] = r * (g[k] * w[k] - v[k] * along);
      if constexpr (kAdds) {
        const auto d = load<kWidth>(dsum + row * columns + j);
#pragma unroll
        for (int k = 0; k < kWidth; ++k) g[k] += d[k];
      }
      store(dx_row + j, g);
    }
  }
#pragma unroll
  for (int chunk = 0; chunk < kChunks; ++chunk) {
    const int64_t j = first + chunk * step;
    if (j < columns) store(share + j, kept[chunk]);
  }
}

constexpr int kKeptChunks = 2;  // 4 take 80 registers in place of 58, and half the threads fit

}  // namespace

template <class T>
void rms_norm(const T* x, const T* delta, const float* weight, T* sum, T* y, float* rstd,
              int64_t rows, int64_t columns, float epsilon, Stream stream) {
  if (rows == 0) return;
  const auto start = [&](auto kernel, int width) {
    launch(kernel, blocks_for(rows), threads_for(columns / width), stream, x, delta, weight, sum, y,
           rstd, rows, columns, epsilon);
  };
  if (are_aligned_rows(columns, x, delta, weight, sum, y)) {  // null is
    start(
        delta == nullptr ? rms_norm_rows<T, kVector<T>, false> : rms_norm_rows<T, kVector<T>, true>,
        kVector<T>);
  } else {
    start(delta == nullptr ? rms_norm_rows<T, 1, false> : rms_norm_rows<T, 1, true>, 1);
  }
}

template <class T>
void rms_norm_backward(const T* dy, const T* x, const float* weight, const float* rstd,
                       const T* dsum, T* dx, float* partial, int64_t rows, int64_t columns,
                       Stream stream) {
  if (rows == 0) return;
  const auto start = [&](auto kernel, int width) {
    launch(kernel, blocks_for(num_partial_rows(rows, columns)), threads_for(columns / width),
           stream, dy, x, weight, rstd, dsum, dx, partial, rows, columns);
  };
  if (are_aligned_rows(columns, dy, x, weight, dsum, dx, partial)) {
    start(dsum == nullptr ? rms_norm_backward_rows<T, kVector<T>, kKeptChunks, false>
                          : rms_norm_backward_rows<T, kVector<T>, kKeptChunks, true>,
          kVector<T>);
  } else {
    start(dsum == nullptr ? rms_norm_backward_rows<T, 1, kKeptChunks, false>
                          : rms_norm_backward_rows<T, 1, kKeptChunks, true>,
          1);
  }
}

template void rms_norm(const float*, const float*, const float*, float*, float*, float*, int64_t,
                       int64_t, float, Stream);
template void rms_norm(const bfloat16*, const bfloat16*, const float*, bfloat16*, bfloat16*, float*,
                       int64_t, int64_t, float, Stream);
template void rms_norm_backward(const float*, const float*, const float*, const float*,
                                const float*, float*, float*, int64_t, int64_t, Stream);
template void rms_norm_backward(const bfloat16*, const bfloat16*, const float*, const float*,
                                const bfloat16*, bfloat16*, float*, int64_t, int64_t, Stream);

}  // namespace crnet::CRNET_CUDA_NAMESPACE
