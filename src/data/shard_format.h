// The bytes of a shard's header; the table is in shard.h.
#pragma once

#include <array>
#include <filesystem>
#include <string>

#include "crnet/data/shard.h"

namespace crnet {

constexpr size_t kShardHeaderBytes = 4096;

/// The header as it stands in the file, kShardHeaderBytes long.
std::string pack_shard_header(const ShardHeader& header);

/// Throws crnet::Error, naming `path`, where `bytes` are no sound header of this version.
ShardHeader unpack_shard_header(std::string_view bytes, const std::filesystem::path& path);

}  // namespace crnet
