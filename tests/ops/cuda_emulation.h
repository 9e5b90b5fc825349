// Enough of CUDA to run kernels on the CPU: a test includes this and then a .cu file, whose
// launches run block by block. A block's threads are fibres, which take turns at barriers and
// shuffles; the test chooses their order, and what depends on it lacks a barrier.
#pragma once

#include <ucontext.h>

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <stdexcept>
#include <vector>

#define CRNET_CUDA_NAMESPACE cuda_emulation
#define __global__
#define __device__
#define __shared__ static  // of one block: they run one after the other
#include "ops/cuda/kernels.h"

namespace crnet::testing {

/// One block of threads at a time.
class EmulatedBlock {
 public:
  /// Runs `kernel` once in every thread of a block. Throws where threads wait at different places.
  void run(unsigned num_threads, bool backwards, const std::function<void()>& kernel);

  /// From within a thread: its number, and waiting for all threads of its block or warp.
  [[nodiscard]] unsigned thread() const { return current_; }
  void wait_for_block() { wait(State::kAtBlock); }
  void wait_for_warp() { wait(State::kAtWarp); }
  /// What a thread shows to the others of its warp.
  [[nodiscard]] double& shown(unsigned thread) { return fibres_[thread].shown; }

  static EmulatedBlock& instance() {
    static EmulatedBlock block;
    return block;
  }

 private:
  static constexpr unsigned kWarp = 32;
  static constexpr size_t kStackBytes = 128 << 10;
  enum class State { kRuns, kAtBlock, kAtWarp, kDone };
  struct Fibre {
    ucontext_t context;
    std::unique_ptr<char[]> stack = std::make_unique_for_overwrite<char[]>(kStackBytes);
    State state = State::kDone;
    double shown = 0;
  };

  static void enter() {
    EmulatedBlock& self = instance();
    (*self.kernel_)();
    self.wait(State::kDone);
  }
  void start(Fibre& fibre) {
    getcontext(&fibre.context);
    fibre.context.uc_stack.ss_sp = fibre.stack.get();
    fibre.context.uc_stack.ss_size = kStackBytes;
    fibre.context.uc_link = nullptr;
    makecontext(&fibre.context, &enter, 0);
    fibre.state = State::kRuns;
  }
  void resume(unsigned thread);
  void wait(State state) {
    Fibre& self = fibres_[current_];
    self.state = state;
    swapcontext(&self.context, &scheduler_);
  }
  [[nodiscard]] bool all(unsigned first, unsigned last, State state) const {
    for (unsigned i = first; i < last; ++i) {
      if (fibres_[i].state != state) return false;
    }
    return true;
  }
  bool release(unsigned first, unsigned last, State state) {
    if (!all(first, last, state)) return false;
    for (unsigned i = first; i < last; ++i) fibres_[i].state = State::kRuns;
    return true;
  }
  const std::function<void()>* kernel_ = nullptr;
  std::vector<Fibre> fibres_;
  ucontext_t scheduler_;
  unsigned current_ = 0;
};

}  // namespace crnet::testing

struct EmulatedIndex {
  unsigned x;
};
inline EmulatedIndex threadIdx, blockIdx, blockDim, gridDim;

namespace crnet::testing {

inline void EmulatedBlock::resume(unsigned thread) {
  if (fibres_[thread].state != State::kRuns) return;
  threadIdx.x = current_ = thread;
  swapcontext(&scheduler_, &fibres_[thread].context);
}

inline void EmulatedBlock::run(unsigned num_threads, bool backwards,
                               const std::function<void()>& kernel) {
  if (num_threads == 0 || num_threads % kWarp != 0) throw std::logic_error("not whole warps");
  kernel_ = &kernel;
  if (fibres_.size() < num_threads) fibres_.resize(num_threads);
  for (unsigned i = 0; i < num_threads; ++i) start(fibres_[i]);
  const auto at = [&](unsigned i, unsigned count) { return backwards ? count - 1 - i : i; };
  do {
    for (unsigned w = 0; w < num_threads / kWarp; ++w) {
      const unsigned first = at(w, num_threads / kWarp) * kWarp;
      do {
        for (unsigned i = 0; i < kWarp; ++i) resume(first + at(i, kWarp));
      } while (release(first, first + kWarp, State::kAtWarp));
    }
    if (all(0, num_threads, State::kDone)) return;
  } while (release(0, num_threads, State::kAtBlock));
  throw std::logic_error("threads of a block wait at different places");
}

/// The order of blocks and threads in the launches to come.
inline bool& emulate_backwards() {
  static bool backwards = false;
  return backwards;
}

}  // namespace crnet::testing

// ---- what CUDA declares

inline void __syncthreads() {
  crnet::testing::EmulatedBlock::instance().wait_for_block();
}

template <class V>
V __shfl_xor_sync(unsigned mask, V value, int lanes) {
  if (mask != 0xffffffffu) throw std::logic_error("expected the whole warp in a shuffle");
  auto& block = crnet::testing::EmulatedBlock::instance();
  block.shown(block.thread()) = static_cast<double>(value);
  block.wait_for_warp();
  const auto other = static_cast<V>(block.shown(block.thread() ^ static_cast<unsigned>(lanes)));
  block.wait_for_warp();
  return other;
}

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline void __stwb(uint4* p, uint4 bits) {
  *p = bits;
}

inline float __uint_as_float(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
inline float __fmaf_rn(float a, float b, float c) {
  return std::fma(a, b, c);
}
inline float __fdividef(float a, float b) {
  return a / b;
}

struct __nv_bfloat16 {
  uint16_t bits;
};
inline __nv_bfloat16 __float2bfloat16_rn(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  if (std::isnan(value)) return {0x7fff};
  return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 value) {
  return value.bits;
}

namespace crnet::CRNET_CUDA_NAMESPACE {

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), unsigned blocks, int threads, Stream /*stream*/,
            Arguments... arguments) {
  gridDim.x = blocks;
  blockDim.x = static_cast<unsigned>(threads);
  const bool backwards = testing::emulate_backwards();
  for (unsigned i = 0; i < blocks; ++i) {
    blockIdx.x = backwards ? blocks - 1 - i : i;
    testing::EmulatedBlock::instance().run(blockDim.x, backwards, [&] { kernel(arguments...); });
  }
}

}  // namespace crnet::CRNET_CUDA_NAMESPACE
