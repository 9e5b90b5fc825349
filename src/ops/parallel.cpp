#include "ops/parallel.h"

#include <ATen/Parallel.h>
#include <c10/core/CPUAllocator.h>

#include <algorithm>
#include <atomic>

#ifndef INTRA_OP_PARALLEL
#error "at::parallel_for would run in one thread: compile this file with OpenMP (-fopenmp)"
#endif

namespace crnet {

void parallel_for(int64_t begin, int64_t end, int64_t grain,
                  const std::function<void(int64_t, int64_t)>& f) {
  // A lambda, so that the template's instance is of this file alone, and not one that a program
  // without OpenMP has as well.
  at::parallel_for(begin, end, grain, [&f](int64_t first, int64_t last) { f(first, last); });
}

void for_each_task(int64_t num_tasks, int64_t scratch_size,
                   const std::function<void(int64_t, float*)>& f) {
  std::atomic<int64_t> next{0};
  const int64_t threads = std::min<int64_t>(num_tasks, at::get_num_threads());
  constexpr int64_t kLine = 64 / sizeof(float);
  const int64_t stride = (scratch_size + kLine - 1) / kLine * kLine;
  const auto scratch =
      c10::GetCPUAllocator()->allocate(static_cast<size_t>(threads * stride) * sizeof(float));
  at::parallel_for(0, threads, 1, [&](int64_t thread, int64_t) {
    float* const own = static_cast<float*>(scratch.get()) + thread * stride;
    for (int64_t task = next++; task < num_tasks; task = next++) f(task, own);
  });
}

}  // namespace crnet
