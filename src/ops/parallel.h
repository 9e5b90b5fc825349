// Loops over LibTorch's threads.
#pragma once

#include <cstdint>
#include <functional>

namespace crnet {

/// Calls f(first, last) for ranges that together are [begin, end), on LibTorch's threads: as
/// at::parallel_for, which is a template that runs in one thread, without a word, wherever its
/// caller was compiled without OpenMP. An exception of f is thrown again here.
void parallel_for(int64_t begin, int64_t end, int64_t grain,
                  const std::function<void(int64_t, int64_t)>& f);

/// Calls f(task, scratch) for every task from 0 to num_tasks − 1: a thread that comes free takes
/// the next one, in their order, so that a task may wait for earlier ones (and then must not
/// throw, or others would wait for it). Each thread has `scratch_size` fp32 numbers, aligned to 64
/// bytes.
void for_each_task(int64_t num_tasks, int64_t scratch_size,
                   const std::function<void(int64_t, float*)>& f);

}  // namespace crnet
