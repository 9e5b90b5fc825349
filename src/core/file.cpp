#include "crnet/core/file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>
#include <vector>

#include "crnet/core/error.h"
#include "crnet/core/format.h"

namespace crnet {
namespace {

constexpr size_t kPieceBytes = size_t{4} << 20;
// Linux moves at most 2 GiB − 4 KiB in one call.
constexpr size_t kCallBytes = size_t{1} << 30;

[[noreturn]] void fail(const char* action, const std::filesystem::path& path, int reason) {
  throw Error(
      format("[file] expected to %s %s, got: %s", action, path.c_str(), std::strerror(reason)));
}

std::string hex(XXH64_hash_t hash) {
  return format("%016llx", static_cast<unsigned long long>(hash));
}

class StreamHash {
 public:
  StreamHash() : state_(XXH3_createState(), &XXH3_freeState) { XXH3_64bits_reset(state_.get()); }

  void update(const void* data, size_t bytes) { XXH3_64bits_update(state_.get(), data, bytes); }
  [[nodiscard]] std::string digest() const { return hex(XXH3_64bits_digest(state_.get())); }

 private:
  std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> state_;
};

/// Calls `take(data, bytes)` with the file's pieces in order.
template <typename Take>
void for_each_piece(const InputFile& file, Take take) {
  std::vector<char> piece(std::min<uint64_t>(kPieceBytes, file.size()));
  for (uint64_t offset = 0; offset < file.size(); offset += piece.size()) {
    const auto bytes = std::min<uint64_t>(piece.size(), file.size() - offset);
    file.read_at(offset, piece.data(), bytes);
    take(piece.data(), bytes);
  }
}

void rename_or_fail(const std::filesystem::path& from, const std::filesystem::path& to) {
  if (std::rename(from.c_str(), to.c_str()) != 0) {
    fail(("rename " + from.string() + " to").c_str(), to, errno);
  }
}

}  // namespace

namespace detail {

Descriptor::~Descriptor() {
  if (number_ >= 0) ::close(number_);
}

Descriptor& Descriptor::operator=(Descriptor&& other) noexcept {
  std::swap(number_, other.number_);
  return *this;
}

int Descriptor::release() noexcept {
  return std::exchange(number_, -1);
}

}  // namespace detail

struct OutputFile::Hasher : StreamHash {};

OutputFile::OutputFile(std::filesystem::path path)
    : path_(std::move(path)),
      file_(::open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666)),
      hasher_(std::make_unique<Hasher>()) {
  if (file_.get() < 0) fail("create", path_, errno);
}

OutputFile::~OutputFile() = default;
OutputFile::OutputFile(OutputFile&&) noexcept = default;
OutputFile& OutputFile::operator=(OutputFile&&) noexcept = default;

void OutputFile::write(const void* data, size_t bytes) {
  const auto* next = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t written = ::write(file_.get(), next, std::min(bytes, kCallBytes));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail("write", path_, errno);
    hasher_->update(next, static_cast<size_t>(written));
    next += written;
    bytes -= static_cast<size_t>(written);
    bytes_ += static_cast<uint64_t>(written);
  }
}

FileDigest OutputFile::close() {
  if (::fsync(file_.get()) != 0) fail("flush", path_, errno);
  if (::close(file_.release()) != 0) fail("close", path_, errno);
  return {bytes_, hasher_->digest()};
}

InputFile::InputFile(std::filesystem::path path)
    : path_(std::move(path)), file_(::open(path_.c_str(), O_RDONLY | O_CLOEXEC)) {
  struct stat status {};
  if (file_.get() < 0 || ::fstat(file_.get(), &status) != 0) fail("read", path_, errno);
  if (!S_ISREG(status.st_mode)) {
    throw Error(format("[file] expected %s to be a file, got something else", path_.c_str()));
  }
  size_ = static_cast<uint64_t>(status.st_size);
}

void InputFile::read_at(uint64_t offset, void* data, size_t bytes) const {
  auto* next = static_cast<char*>(data);
  while (bytes > 0) {
    const ssize_t got =
        ::pread(file_.get(), next, std::min(bytes, kCallBytes), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail("read", path_, errno);
    if (got == 0) {
      throw Error(format("[file] expected %zu more bytes at %llu of %s, got its end", bytes,
                         static_cast<unsigned long long>(offset), path_.c_str()));
    }
    next += got;
    offset += static_cast<uint64_t>(got);
    bytes -= static_cast<size_t>(got);
  }
}

detail::Descriptor lock_folder(const std::filesystem::path& folder) {
  std::error_code failure;
  std::filesystem::create_directories(folder, failure);
  if (failure) fail("create the folder", folder, failure.value());
  detail::Descriptor opened(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (opened.get() < 0) fail("open folder", folder, errno);
  if (::flock(opened.get(), LOCK_EX | LOCK_NB) != 0) {
    throw Error(
        format("[file] expected %s for this process alone, got another that writes there; wait for "
               "it, or choose another folder",
               folder.c_str()));
  }
  return opened;
}

void sync_folder(const std::filesystem::path& folder) {
  const auto& named = folder.empty() ? std::filesystem::path(".") : folder;
  const detail::Descriptor opened(::open(named.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (opened.get() < 0) fail("open folder", named, errno);
  // Some network file systems cannot flush a folder and say EINVAL: there is nothing to add.
  if (::fsync(opened.get()) != 0 && errno != EINVAL) fail("flush folder", named, errno);
}

void rename_durably(const std::filesystem::path& from, const std::filesystem::path& to) {
  rename_or_fail(from, to);
  sync_folder(to.parent_path());
}

void write_text_atomic(const std::filesystem::path& path, std::string_view text) {
  const auto temporary = path.parent_path() / format(".%s.tmp", path.filename().c_str());
  try {
    OutputFile file(temporary);
    file.write(text);
    file.close();
    rename_durably(temporary, path);
  } catch (...) {
    std::error_code ignored;
    std::filesystem::remove(temporary, ignored);
    throw;
  }
}

std::string read_text(const std::filesystem::path& path) {
  const InputFile file(path);
  std::string text(file.size(), '\0');
  file.read_at(0, text.data(), text.size());
  return text;
}

FileDigest copy_durably(const std::filesystem::path& from, const std::filesystem::path& to) {
  const InputFile source(from);
  OutputFile target(to);
  for_each_piece(source, [&](const char* data, size_t bytes) { target.write(data, bytes); });
  return target.close();
}

FileDigest digest_file(const std::filesystem::path& path) {
  const InputFile file(path);
  StreamHash hash;
  for_each_piece(file, [&](const char* data, size_t bytes) { hash.update(data, bytes); });
  return {file.size(), hash.digest()};
}

std::string xxh3_hex(std::string_view bytes) {
  return hex(XXH3_64bits(bytes.data(), bytes.size()));
}

}  // namespace crnet
