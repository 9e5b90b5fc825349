// Memory of CPU tensors that is kept for the next ones.
#pragma once

#include <c10/core/Allocator.h>

namespace crnet {

/// Gives large blocks from one range of addresses, each the lowest that is free and large enough.
/// Small ones are LibTorch's own, as all are where the system refuses the range, where it is used
/// up, and under sanitizers, which watch single blocks. What is freed stays with the process.
/// Blocks are aligned to 64 bytes; any thread may ask, and free. A child made by fork may not while
/// its parent has other threads.
c10::Allocator& tensor_memory();

/// Whether a block is of that range.
bool is_in_tensor_memory(const void* block);

/// Hands the pages of what is free in it back to the system.
void return_free_tensor_memory();

}  // namespace crnet
