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

}  // namespace crnet
