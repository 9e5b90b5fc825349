// What the kernels are made of: packs of elements, sums over a block, launches. For .cu files.
#pragma once

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#endif  // elsewhere tests/ops/cuda_emulation.h stands in for both, and is included first

#include <cstring>
#include <string>

#include "crnet/core/error.h"
#include "ops/cuda/kernels.h"

namespace crnet::CRNET_CUDA_NAMESPACE {

constexpr int kWarp = 32;
constexpr int kMaxThreads = 512;  // of a block
constexpr unsigned kAllLanes = 0xffffffffu;

// ---- elements

__device__ inline float to_float(float value) {
  return value;
}
__device__ inline float to_float(bfloat16 value) {
  return __uint_as_float(static_cast<unsigned>(value.bits) << 16);
}

template <class T>
__device__ inline T from_float(float value);
template <>
__device__ inline float from_float<float>(float value) {
  return value;
}
template <>
__device__ inline bfloat16 from_float<bfloat16>(float value) {
  return {__bfloat16_as_ushort(__float2bfloat16_rn(value))};
}

/// How many elements one access of 16 bytes moves.
template <class T>
constexpr int kVector = 16 / sizeof(T);

/// kWidth neighbours in memory. Where that is kVector of them, one access moves them all.
template <class T, int kWidth>
struct alignas(sizeof(T) * kWidth < 16 ? sizeof(T) * kWidth : 16) Pack {
  T values[kWidth];
};

/// The same in registers.
template <int kWidth>
struct Floats {
  float values[kWidth];
  __device__ float& operator[](int i) { return values[i]; }
  __device__ float operator[](int i) const { return values[i]; }
};

template <int kWidth, class T>
__device__ inline Floats<kWidth> load(const T* p) {
  const auto pack = *reinterpret_cast<const Pack<T, kWidth>*>(p);
  Floats<kWidth> floats;
#pragma unroll
  for (int k = 0; k < kWidth; ++k) floats[k] = to_float(pack.values[k]);
  return floats;
}

template <int kWidth, class T>
__device__ inline void store(T* p, const Floats<kWidth>& floats) {
  Pack<T, kWidth> pack;
#pragma unroll
  for (int k = 0; k < kWidth; ++k) pack.values[k] = from_float<T>(floats[k]);
  if constexpr (sizeof(pack) == sizeof(uint4)) {
    uint4 bits;
    memcpy(&bits, &pack, sizeof(bits));
    __stwb(reinterpret_cast<uint4*>(p), bits);  // an assignment may become a store per element
  } else {
    *reinterpret_cast<Pack<T, kWidth>*>(p) = pack;
  }
}

/// As they come back from memory.
template <class T, int kWidth>
__device__ inline Floats<kWidth> rounded(Floats<kWidth> floats) {
#pragma unroll
  for (int k = 0; k < kWidth; ++k) floats[k] = to_float(from_float<T>(floats[k]));
  return floats;
}

// ---- loops

/// A width of packs, as a value.
template <int kWidth>
struct Width {
  static constexpr int value = kWidth;
};

/// Calls f(width, i) in some thread of the grid for every pack of elements i … i + width − 1 in
/// [0, count), and for what is left over element by element.
template <int kWidth, class F>
__device__ inline void for_each_pack(int64_t count, F&& f) {
  const int64_t thread = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const int64_t num_threads = int64_t{gridDim.x} * blockDim.x;
  const int64_t num_packs = count / kWidth;
  for (int64_t i = thread; i < num_packs; i += num_threads) f(Width<kWidth>{}, i * kWidth);
  for (int64_t i = num_packs * kWidth + thread; i < count; i += num_threads) f(Width<1>{}, i);
}

// ---- sums and maxima over a block

/// All threads' values, combined in an order that depends on the block's size alone; the result is
/// in every thread. All threads of a block call it, whole warps of them.
template <class V, class Combine>
__device__ inline V block_reduce(V value, Combine combine) {
  __shared__ V of_warps[kMaxThreads / kWarp];
#pragma unroll
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) {
    value = combine(value, __shfl_xor_sync(kAllLanes, value, lanes));
  }
  const int num_warps = static_cast<int>(blockDim.x) / kWarp;
  if (num_warps == 1) return value;
  __syncthreads();  // until nobody reads those of the call before
  if (threadIdx.x % kWarp == 0) of_warps[threadIdx.x / kWarp] = value;
  __syncthreads();
  value = of_warps[0];
  for (int warp = 1; warp < num_warps; ++warp) value = combine(value, of_warps[warp]);
  return value;
}

template <class V>
__device__ inline V block_sum(V value) {
  return block_reduce(value, [](V a, V b) { return a + b; });
}

/// Passes over NaN.
__device__ inline float block_maximum(float value) {
  return block_reduce(value, [](float a, float b) { return fmaxf(a, b); });
}

// ---- sums with what is carried

/// dot += Σ a ⊙ b
template <int kWidth>
__device__ inline void add_products(float& dot, const Floats<kWidth>& a, const Floats<kWidth>& b) {
#pragma unroll
  for (int k = 0; k < kWidth; ++k) dot += a[k] * b[k];
}

/// d + c · carried, with d rounded to fp32 as from memory: not joined with what made it.
template <int kWidth>
__device__ inline Floats<kWidth> plus_scaled(Floats<kWidth> d, float c,
                                             const Floats<kWidth>& carried) {
#pragma unroll
  for (int k = 0; k < kWidth; ++k) d[k] = __fmaf_rn(c, carried[k], d[k]);
  return d;
}

/// One block: sum = Σ partial[0 … count − 1]
template <class T>
__global__ void sum_partials(const T* __restrict__ partial, int64_t count, T* __restrict__ sum) {
  double mine = 0;
  for (int64_t i = threadIdx.x; i < count; i += blockDim.x) mine += partial[i];
  mine = block_sum(mine);
  if (threadIdx.x == 0) *sum = static_cast<T>(mine);
}

// ---- launches, on the host

/// Whether elements at these addresses can be read 16 bytes at a time,
template <class... Pointers>
bool are_aligned(const Pointers*... pointers) {
  return ((reinterpret_cast<uintptr_t>(pointers) % 16 == 0) && ...);
}
/// and whole rows of `columns` elements; of those, T has the most to 16 bytes.
template <class T, class... Pointers>
bool are_aligned_rows(int64_t columns, const T* first, const Pointers*... rest) {
  return columns % kVector<T> == 0 && are_aligned(first, rest...);
}

constexpr int kThreads = 256;  // of a block that takes elements as they come

/// Threads for a row of this many packs: whole warps.
inline int threads_for(int64_t packs) {
  const int64_t rounded = (packs + kWarp - 1) / kWarp * kWarp;
  return static_cast<int>(std::clamp<int64_t>(rounded, kWarp, kMaxThreads));
}

/// Blocks for this many pieces of work; each kernel's blocks go on until nothing is left.
inline unsigned blocks_for(int64_t pieces) {
  constexpr int64_t kMost = int64_t{1} << 20;
  return static_cast<unsigned>(std::clamp<int64_t>(pieces, 1, kMost));
}

/// Blocks of kThreads for this many elements, each thread taking packs of `width`.
inline unsigned blocks_for_elements(int64_t count, int width) {
  return blocks_for((count / width + kThreads - 1) / kThreads);
}

#ifdef __CUDACC__
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), unsigned blocks, int threads, Stream stream,
            Arguments... arguments) {
  kernel<<<blocks, threads, 0, stream>>>(arguments...);
  const cudaError_t status = cudaGetLastError();
  if (status == cudaSuccess) return;
  throw Error(std::string("[cuda] expected a kernel to start, got: ") + cudaGetErrorString(status));
}
#endif

}  // namespace crnet::CRNET_CUDA_NAMESPACE
