#include "crnet/train/checkpoint.h"

#include <fcntl.h>

#include <algorithm>
#include <cstdio>
#include <map>

#include "crnet/core/error.h"
#include "crnet/core/file.h"
#include "crnet/core/format.h"
#include "crnet/core/log.h"
#include "train/checkpoint_manifest.h"

namespace crnet {
namespace {

namespace fs = std::filesystem;

constexpr const char* kStepPrefix = "step-";
constexpr const char* kTemporaryPrefix = ".tmp-";

std::string step_name(int64_t step) {
  return format("%s%08lld", kStepPrefix, static_cast<long long>(step));
}

/// The step of a folder's name, if it is one of a checkpoint.
std::optional<int64_t> step_of(const fs::path& folder) {
  long long step = 0;
  int end = 0;
  const std::string name = folder.filename().string();
  const bool read = std::sscanf(name.c_str(), "step-%lld%n", &step, &end) == 1;
  if (!read || step < 0 || name != step_name(step)) return std::nullopt;
  return step;
}

fs::path temporary_beside(const fs::path& folder) {
  return folder.parent_path() / format("%s%s", kTemporaryPrefix, folder.filename().c_str());
}

// Another process's files: a cheap look that they are on this process's disk too.
void expect_files(const fs::path& folder, const FileDigests& files) {
  for (const auto& [name, digest] : files) {
    std::error_code absent;
    if (fs::file_size(folder / name, absent) == digest.bytes && !absent) continue;
    throw Error(
        format("expected %s with %llu bytes, got %s; train.run_dir has to be on a disk that "
               "all processes share",
               (folder / name).c_str(), static_cast<unsigned long long>(digest.bytes),
               absent ? "no such file" : "another size"));
  }
}

/// Swaps two folders in one step where the file system can, so that there is a checkpoint of this
/// step at every moment.
void exchange(const fs::path& fresh, const fs::path& existing) {
  if (::renameat2(AT_FDCWD, fresh.c_str(), AT_FDCWD, existing.c_str(), RENAME_EXCHANGE) == 0) {
    return;
  }
  const auto aside = existing.parent_path() /
                     format("%sreplaced-%s", kTemporaryPrefix, existing.filename().c_str());
  fs::remove_all(aside);
  fs::rename(existing, aside);
  fs::rename(fresh, existing);
  fs::remove_all(aside);
}

/// Gives `fresh` its final name; a checkpoint that had it is at `fresh` afterwards, or gone.
void publish(const fs::path& fresh, const fs::path& target) {
  if (fs::exists(target)) {
    exchange(fresh, target);
  } else {
    fs::rename(fresh, target);
  }
  sync_folder(target.parent_path());
}

void verify_file(const fs::path& path, const FileDigest& expected) {
  if (!fs::exists(path)) {
    throw Error(
        format("[checkpoint] expected %s, got no file; use another checkpoint", path.c_str()));
  }
  const auto size = static_cast<unsigned long long>(fs::file_size(path));
  if (size != expected.bytes) {
    throw Error(
        format("[checkpoint] %s: expected %llu bytes, got %llu: it was cut short or changed; use "
               "another checkpoint",
               path.c_str(), static_cast<unsigned long long>(expected.bytes), size));
  }
  const auto got = digest_file(path).xxh3;
  if (got != expected.xxh3) {
    throw Error(
        format("[checkpoint] %s: expected the hash %s, got %s: its contents have changed; "
               "use another checkpoint",
               path.c_str(), expected.xxh3.c_str(), got.c_str()));
  }
}

TensorFiles open_files(const Checkpoint& checkpoint, const char* kind) {
  std::vector<fs::path> paths;
  for (const auto& [name, digest] : checkpoint.files) {
    if (detail::is_file_of(kind, name)) paths.push_back(checkpoint.folder / name);
  }
  return TensorFiles(paths);
}

/// Under its own name a checkpoint is whole, also while it is being removed.
void remove_checkpoint(const fs::path& folder) {
  const auto renamed = temporary_beside(folder);
  fs::rename(folder, renamed);
  fs::remove_all(renamed);
}

}  // namespace

TensorFiles Checkpoint::model() const {
  return open_files(*this, detail::kModel);
}

TensorFiles Checkpoint::optimizer() const {
  return open_files(*this, detail::kOptimizer);
}

fs::path Checkpoint::tokenizer() const {
  auto path = folder / detail::kTokenizerFile;
  if (!fs::exists(path)) {
    throw Error(
        format("[checkpoint] expected %s, got a checkpoint without a tokenizer", path.c_str()));
  }
  return path;
}

Checkpoint open_checkpoint(const fs::path& folder, int part, int parts) {
  try {
    auto manifest = detail::read_manifest(folder);
    int number = 0;
    for (const auto& [name, digest] : manifest.files) {
      if (number++ % parts == part) verify_file(folder / name, digest);
    }
    return {folder, std::move(manifest.state), std::move(manifest.files)};
  } catch (const fs::filesystem_error& failure) {
    throw Error(
        format("[checkpoint] expected to read %s, got: %s", folder.c_str(), failure.what()));
  }
}

FileDigests write_share(const fs::path& folder, const CheckpointContent& content, int part,
                        int parts, const std::stop_token& stop) {
  const auto model = detail::file_of(detail::kModel, part, parts);
  const auto optimizer = detail::file_of(detail::kOptimizer, part, parts);
  FileDigests files;
  files[model] = save_pieces(folder / model, content.model, stop);
  files[optimizer] = save_pieces(folder / optimizer, content.optimizer, stop);
  return files;
}

CheckpointStore::CheckpointStore(fs::path folder, int64_t keep_last, int64_t keep_every)
    : folder_(std::move(folder)), keep_last_(keep_last), keep_every_(keep_every) {
  if (keep_last < 1 || keep_every < 0) {
    throw UsageError(
        format("[checkpoint] expected keep_last ≥ 1 and keep_every ≥ 0, got %lld and "
               "%lld",
               static_cast<long long>(keep_last), static_cast<long long>(keep_every)));
  }
}

template <class Work>
auto CheckpointStore::saving(int64_t step, const Work& work) const {
  try {
    return work();
  } catch (const std::exception& failure) {
    abandon(step);
    throw Error(
        format("[checkpoint] expected to save %s, got: %s; earlier checkpoints are "
               "untouched",
               target(step).c_str(), failure.what()));
  }
}

fs::path CheckpointStore::target(int64_t step) const {
  return folder_ / step_name(step);
}

fs::path CheckpointStore::prepare(int64_t step) const {
  return saving(step, [&] {
    fs::create_directories(folder_);
    remove_leftovers();
    auto temporary = temporary_beside(target(step));
    fs::create_directory(temporary);
    return temporary;
  });
}

fs::path CheckpointStore::commit(const CheckpointContent& content, FileDigests files) {
  const auto step = content.state.step;
  const auto temporary = temporary_beside(target(step));
  saving(step, [&] {
    expect_files(temporary, files);
    if (!content.tokenizer.empty()) {
      files[detail::kTokenizerFile] =
          copy_durably(content.tokenizer, temporary / detail::kTokenizerFile);
    }
    detail::write_manifest(temporary, {content.state, std::move(files)});
    publish(temporary, target(step));
  });
  abandon(step);  // one of that step that was there before has its name now
  refused_.erase(target(step));
  prune(step);
  return target(step);
}

void CheckpointStore::abandon(int64_t step) const {
  std::error_code ignored;
  fs::remove_all(temporary_beside(target(step)), ignored);
}

fs::path CheckpointStore::save(const CheckpointContent& content) {
  const auto temporary = prepare(content.state.step);
  return commit(content, saving(content.state.step, [&] {
                  return write_share(temporary, content, /*part=*/0, /*parts=*/1);
                }));
}

std::vector<fs::path> CheckpointStore::list() const {
  std::map<int64_t, fs::path> by_step;
  std::error_code absent;
  for (const auto& entry : fs::directory_iterator(folder_, absent)) {
    const auto step = step_of(entry.path());
    if (step && entry.is_directory()) by_step[*step] = entry.path();
  }
  std::vector<fs::path> folders;
  for (const auto& [step, folder] : by_step) folders.push_back(folder);
  return folders;
}

std::optional<Checkpoint> CheckpointStore::newest_sound(
    const std::function<void(std::string_view)>& warn) {
  const auto folders = list();
  for (auto folder = folders.rbegin(); folder != folders.rend(); ++folder) {
    try {
      return open_checkpoint(*folder);
    } catch (const Error& failure) {
      refuse(*folder);
      warn("refused the checkpoint " + folder->filename().string() + ": " + failure.what());
    }
  }
  return std::nullopt;
}

void CheckpointStore::remove_leftovers() const {
  for (const auto& entry : fs::directory_iterator(folder_)) {
    if (entry.path().filename().string().starts_with(kTemporaryPrefix)) fs::remove_all(entry);
  }
}

// Newer steps than the one just saved are of an abandoned continuation of the run, and refused ones
// are no use: neither counts as kept, and neither is removed.
void CheckpointStore::prune(int64_t newest_step) const {
  auto folders = list();
  std::erase_if(folders, [&](const auto& folder) {
    return *step_of(folder) > newest_step || refused_.contains(folder);
  });
  const auto removable = std::max<int64_t>(0, std::ssize(folders) - keep_last_);
  for (int64_t i = 0; i < removable; ++i) {
    const auto& folder = folders[static_cast<size_t>(i)];
    if (keep_every_ > 0 && *step_of(folder) % keep_every_ == 0) continue;
    try {
      remove_checkpoint(folder);
    } catch (const fs::filesystem_error& failure) {
      log::warn(std::string("[checkpoint] expected to remove an old one, got: ") + failure.what());
    }
  }
}

}  // namespace crnet
