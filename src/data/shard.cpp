#include "crnet/data/shard.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "crnet/core/error.h"
#include "crnet/core/format.h"
#include "data/checksum.h"
#include "data/file_io.h"
#include "data/shard_format.h"

namespace crnet {
namespace {

template <class Stored>
void widen(const char* bytes, std::span<int64_t> out) {
  const auto* stored = reinterpret_cast<const Stored*>(bytes);
  for (size_t i = 0; i < out.size(); ++i) out[i] = stored[i];
}

std::string read_header(File& file) {
  std::string bytes(kShardHeaderBytes, '\0');
  size_t filled = 0;
  while (filled < bytes.size()) {
    const size_t got = file.read(std::span(bytes).subspan(filled));
    if (got == 0) break;
    filled += got;
  }
  bytes.resize(filled);
  return bytes;
}

}  // namespace

Shard::Shard(std::filesystem::path path, ShardHeader header, const char* mapping,
             size_t mapped_bytes)
    : path_(std::move(path)),
      header_(std::move(header)),
      mapping_(mapping),
      mapped_bytes_(mapped_bytes) {}

Shard Shard::open(const std::filesystem::path& path) {
  auto file = File::open(path);
  auto header = unpack_shard_header(read_header(file), path);
  const auto expected =
      static_cast<int64_t>(kShardHeaderBytes) + header.tokens * header.bytes_per_token;
  if (file.size() != expected) {
    throw Error(
        format("[shard] expected %ld bytes for %ld tokens, got %ld: %s is %s; make it "
               "again with crnet prepare",
               static_cast<long>(expected), static_cast<long>(header.tokens),
               static_cast<long>(file.size()), path.c_str(),
               file.size() < expected ? "truncated" : "too long"));
  }
  const auto size = static_cast<size_t>(expected);
  void* mapping = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, file.descriptor(), 0);
  if (mapping == MAP_FAILED) {
    throw Error("[shard] expected to map " + path.string() + ", got: " + std::strerror(errno));
  }
  return {path, std::move(header), static_cast<const char*>(mapping), size};
}

Shard::~Shard() {
  if (mapping_ != nullptr) ::munmap(const_cast<char*>(mapping_), mapped_bytes_);
}

Shard::Shard(Shard&& other) noexcept
    : path_(std::move(other.path_)),
      header_(std::move(other.header_)),
      mapping_(std::exchange(other.mapping_, nullptr)),
      mapped_bytes_(other.mapped_bytes_) {}

Shard& Shard::operator=(Shard&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(header_, other.header_);
  std::swap(mapping_, other.mapping_);
  std::swap(mapped_bytes_, other.mapped_bytes_);
  return *this;
}

void Shard::verify() const {
  const std::string_view tokens(mapping_ + kShardHeaderBytes, mapped_bytes_ - kShardHeaderBytes);
  const uint64_t found = checksum(tokens);
  if (found == header_.checksum) return;
  throw Error("[shard] expected checksum " + hex(header_.checksum) + ", got " + hex(found) + ": " +
              path_.string() + " is damaged; make it again with crnet prepare");
}

void Shard::read(int64_t begin, std::span<int64_t> out) const {
  const auto count = static_cast<int64_t>(out.size());
  if (begin < 0 || begin + count > tokens()) {
    throw Error(format("[shard] expected tokens below %ld, got a range from %ld to %ld in %s",
                       static_cast<long>(tokens()), static_cast<long>(begin),
                       static_cast<long>(begin + count), path_.c_str()));
  }
  const char* bytes = mapping_ + kShardHeaderBytes + begin * header_.bytes_per_token;
  if (header_.bytes_per_token == 2) {
    widen<uint16_t>(bytes, out);
  } else {
    widen<uint32_t>(bytes, out);
  }
}

}  // namespace crnet
