#include "data/shard_format.h"

#include <bit>
#include <cstring>

#include "crnet/core/error.h"
#include "crnet/core/format.h"
#include "data/checksum.h"

namespace crnet {
namespace {

static_assert(std::endian::native == std::endian::little, "shards are little endian");

constexpr uint32_t kVersion = 1;
constexpr std::string_view kMagic = "CRNETSHD";
constexpr size_t kHashDigits = 16;

struct PackedHeader {
  char magic[8];
  uint32_t version;
  uint32_t bytes_per_token;
  uint64_t tokens;
  uint64_t vocab_size;
  char tokenizer_hash[kHashDigits];
  uint64_t checksum;
  uint64_t header_checksum;
};
static_assert(sizeof(PackedHeader) == 64);

uint64_t header_checksum(const PackedHeader& packed) {
  return checksum(
      {reinterpret_cast<const char*>(&packed), offsetof(PackedHeader, header_checksum)});
}

}  // namespace

std::string pack_shard_header(const ShardHeader& header) {
  if (header.tokenizer_hash.size() != kHashDigits) {
    throw Error("[shard] expected a tokenizer hash of 16 digits, got '" + header.tokenizer_hash +
                "'");
  }
  PackedHeader packed{};
  std::memcpy(packed.magic, kMagic.data(), sizeof packed.magic);
  packed.version = kVersion;
  packed.bytes_per_token = static_cast<uint32_t>(header.bytes_per_token);
  packed.tokens = static_cast<uint64_t>(header.tokens);
  packed.vocab_size = static_cast<uint64_t>(header.vocab_size);
  std::memcpy(packed.tokenizer_hash, header.tokenizer_hash.data(), kHashDigits);
  packed.checksum = header.checksum;
  packed.header_checksum = header_checksum(packed);
  std::string bytes(kShardHeaderBytes, '\0');
  std::memcpy(bytes.data(), &packed, sizeof packed);
  return bytes;
}

ShardHeader unpack_shard_header(std::string_view bytes, const std::filesystem::path& path) {
  const auto refuse = [&](const std::string& what) -> Error {
    return Error("[shard] expected a token shard, got " + path.string() + ", " + what +
                 "; make it again with crnet prepare");
  };
  PackedHeader packed;
  if (bytes.size() < kShardHeaderBytes) throw refuse("which is truncated in its header");
  std::memcpy(&packed, bytes.data(), sizeof packed);
  if (std::string_view(packed.magic, sizeof packed.magic) != kMagic) {
    throw refuse("which is another kind of file or was not finished");
  }
  if (packed.version != kVersion) {
    throw refuse(
        format("of format version %u where this program reads %u", packed.version, kVersion));
  }
  if (packed.header_checksum != header_checksum(packed) ||
      (packed.bytes_per_token != 2 && packed.bytes_per_token != 4)) {
    throw refuse("which is damaged in its header");
  }
  return {.bytes_per_token = static_cast<int32_t>(packed.bytes_per_token),
          .tokens = static_cast<int64_t>(packed.tokens),
          .vocab_size = static_cast<int64_t>(packed.vocab_size),
          .tokenizer_hash = std::string(packed.tokenizer_hash, kHashDigits),
          .checksum = packed.checksum};
}

}  // namespace crnet
