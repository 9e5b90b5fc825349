// A checkpoint that many processes wrote, as one file of a kind.
#pragma once

#include <filesystem>

#include "crnet/train/checkpoint.h"

namespace crnet {

/// Writes what `checkpoint` holds, which open_checkpoint() has verified, as a checkpoint of one
/// process: model.safetensors with every weight whole, under its name in fp32, and the optimizer's
/// tensors likewise. `folder` must not exist; it appears when it is complete. One tensor at a time
/// is in memory. Returns the new checkpoint. Throws UsageError where `folder` exists, Error with
/// path and reason for what fails later; nothing of the new one is left then.
Checkpoint consolidate(const Checkpoint& checkpoint, const std::filesystem::path& folder);

}  // namespace crnet
