// The writing half of shard.h.
#include <utility>

#include "crnet/core/error.h"
#include "crnet/core/file.h"
#include "crnet/core/format.h"
#include "crnet/data/shard.h"
#include "data/checksum.h"
#include "data/file_io.h"
#include "data/shard_format.h"

namespace crnet {
namespace {

constexpr int64_t kLargestUint16Vocabulary = 65536;
constexpr size_t kFlushBytes = 4 << 20;

template <class Stored>
void append_as(std::span<const int32_t> tokens, std::string& bytes) {
  for (const int32_t token : tokens) {
    const auto stored = static_cast<Stored>(token);
    bytes.append(reinterpret_cast<const char*>(&stored), sizeof stored);
  }
}

}  // namespace

struct ShardWriter::Impl {
  std::filesystem::path path;
  ShardHeader header;
  File file;
  RunningChecksum checksum;
  std::string buffer;
  bool published = false;

  void flush() {
    checksum.add(buffer);
    file.write(buffer);
    buffer.clear();
  }
};

ShardWriter::ShardWriter(std::filesystem::path path, int64_t vocab_size,
                         const std::string& tokenizer_hash) {
  auto file = File::create(temporary_name(path));
  ShardHeader header{.bytes_per_token = vocab_size <= kLargestUint16Vocabulary ? 2 : 4,
                     .tokens = 0,
                     .vocab_size = vocab_size,
                     .tokenizer_hash = tokenizer_hash,
                     .checksum = 0};
  impl_ = std::make_unique<Impl>(
      Impl{std::move(path), std::move(header), std::move(file), {}, {}, false});
  // Zeros, until finish(): no magic, so that what is unfinished is refused under any name.
  impl_->file.write(std::string(kShardHeaderBytes, '\0'));
}

ShardWriter::~ShardWriter() {
  if (impl_ == nullptr || impl_->published) return;
  std::error_code ignored;
  std::filesystem::remove(temporary_name(impl_->path), ignored);
}

ShardWriter::ShardWriter(ShardWriter&&) noexcept = default;
ShardWriter& ShardWriter::operator=(ShardWriter&&) noexcept = default;

void ShardWriter::write(std::span<const int32_t> tokens) {
  auto& header = impl_->header;
  for (const int32_t token : tokens) {
    if (token >= 0 && token < header.vocab_size) continue;
    throw Error(format("[shard] expected ids from 0 to %ld, got %d, for ",
                       static_cast<long>(header.vocab_size - 1), token) +
                impl_->path.string());
  }
  if (header.bytes_per_token == 2) {
    append_as<uint16_t>(tokens, impl_->buffer);
  } else {
    append_as<uint32_t>(tokens, impl_->buffer);
  }
  header.tokens += static_cast<int64_t>(tokens.size());
  if (impl_->buffer.size() >= kFlushBytes) impl_->flush();
}

int64_t ShardWriter::tokens() const {
  return impl_->header.tokens;
}

ShardHeader ShardWriter::finish() {
  impl_->flush();
  impl_->header.checksum = impl_->checksum.value();
  impl_->file.write_at(0, pack_shard_header(impl_->header));
  impl_->file.sync();
  // A large corpus has more finished shards than a process may have open files.
  { const File closing = std::move(impl_->file); }
  std::string().swap(impl_->buffer);
  return impl_->header;
}

void ShardWriter::publish() {
  rename_durably(temporary_name(impl_->path), impl_->path);
  impl_->published = true;
}

}  // namespace crnet
