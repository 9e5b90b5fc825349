#include "crnet/train/consolidate.h"

#include "crnet/core/error.h"
#include "crnet/core/format.h"
#include "train/checkpoint_manifest.h"

namespace crnet {
namespace {

namespace fs = std::filesystem;

void write_consolidated(const Checkpoint& checkpoint, const fs::path& folder) {
  detail::Manifest manifest{checkpoint.state, {}};
  const auto add = [&](const char* kind, const TensorFiles& tensors) {
    const auto name = detail::file_of(kind, /*part=*/0, /*parts=*/1);
    manifest.files[name] = save_whole(folder / name, tensors);
  };
  add(detail::kModel, checkpoint.model());
  add(detail::kOptimizer, checkpoint.optimizer());
  if (checkpoint.files.contains(detail::kTokenizerFile)) {
    manifest.files[detail::kTokenizerFile] =
        copy_durably(checkpoint.tokenizer(), folder / detail::kTokenizerFile);
  }
  detail::write_manifest(folder, manifest);
}

}  // namespace

Checkpoint consolidate(const Checkpoint& checkpoint, const fs::path& folder) {
  const fs::path target = folder.has_filename() ? folder : folder.parent_path();
  if (fs::exists(target)) {
    throw UsageError("[checkpoint] --out: expected a folder that does not exist yet, got " +
                     target.string() + "; name another");
  }
  const fs::path temporary = target.parent_path() / format(".tmp-%s", target.filename().c_str());
  try {
    fs::remove_all(temporary);
    fs::create_directories(temporary);
    write_consolidated(checkpoint, temporary);
    rename_durably(temporary, target);
  } catch (const std::exception& failure) {
    std::error_code ignored;
    fs::remove_all(temporary, ignored);
    throw Error(
        format("[checkpoint] expected to write %s, got: %s", target.c_str(), failure.what()));
  }
  return open_checkpoint(target);
}

}  // namespace crnet
