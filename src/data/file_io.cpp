#include "data/file_io.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "crnet/core/error.h"

namespace crnet {
namespace {

[[noreturn]] void fail(const char* action, const std::filesystem::path& path) {
  const int reason = errno;
  const char* hint = "";
  if (reason == ENOSPC || reason == EDQUOT) hint = "; free some space or choose another folder";
  if (reason == EACCES || reason == EROFS || reason == EPERM) hint = "; check its permissions";
  throw Error(std::string("[file] expected to ") + action + " " + path.string() +
              ", got: " + std::strerror(reason) + hint);
}

}  // namespace

File::File(int descriptor, std::filesystem::path path)
    : descriptor_(descriptor), path_(std::move(path)) {}

File::File(File&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)), path_(std::move(other.path_)) {}

File& File::operator=(File&& other) noexcept {
  std::swap(descriptor_, other.descriptor_);
  std::swap(path_, other.path_);
  return *this;
}

File::~File() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

File File::open(const std::filesystem::path& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) fail("open", path);
  return {descriptor, path};
}

File File::create(const std::filesystem::path& path) {
  const int descriptor = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (descriptor < 0) fail("create", path);
  return {descriptor, path};
}

size_t File::read(std::span<char> buffer) {
  for (;;) {
    const ssize_t got = ::read(descriptor_, buffer.data(), buffer.size());
    if (got >= 0) return static_cast<size_t>(got);
    if (errno != EINTR) fail("read", path_);
  }
}

void File::write(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail("write to", path_);
    bytes.remove_prefix(static_cast<size_t>(written));
  }
}

void File::write_at(int64_t offset, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::pwrite(descriptor_, bytes.data(), bytes.size(), offset);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail("write to", path_);
    bytes.remove_prefix(static_cast<size_t>(written));
    offset += written;
  }
}

void File::sync() {
  if (::fsync(descriptor_) != 0) fail("write to disk", path_);
}

int64_t File::size() const {
  struct stat status {};
  if (::fstat(descriptor_, &status) != 0) fail("read the size of", path_);
  return status.st_size;
}

std::filesystem::path temporary_name(const std::filesystem::path& path) {
  return path.string() + ".tmp";
}

}  // namespace crnet
