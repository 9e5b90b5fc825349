// Memory of CPU tensors that is kept for the next ones.
#pragma once

#include <c10/core/Allocator.h>

namespace crnet {

/// Gives large blocks from one range of addresses, each the lowest that is free and large enough;
/// small ones come from LibTorch's own allocator, as all do where the system refuses the range, or
/// it is used up. What is freed stays with the process. Blocks are aligned to 64 bytes; any thread
/// may ask, and free.
c10::Allocator& tensor_memory();

/// Hands the pages of what is free back to the system.
void return_free_tensor_memory();

}  // namespace crnet
