// manifest.json of a checkpoint: the state, and what every other file must be.
#pragma once

#include <string>

#include "crnet/core/file.h"
#include "crnet/train/checkpoint.h"

namespace crnet::detail {

inline constexpr const char* kManifestFile = "manifest.json";
inline constexpr const char* kModel = "model";
inline constexpr const char* kOptimizer = "optimizer";
inline constexpr const char* kTokenizerFile = "tokenizer.model";

struct Manifest {
  TrainState state;
  FileDigests files;
};

/// Whether a file holds tensors of `kind`, kModel or kOptimizer.
bool is_file_of(const std::string& kind, const std::string& name);
/// The name of such a file of process `part` of `parts`.
std::string file_of(const std::string& kind, int part, int parts);

/// Throws Error where one of the state's JSON texts is none.
std::string encode_manifest(const Manifest& manifest);

/// Writes `folder`/manifest.json, last of a checkpoint's files, and flushes the folder.
void write_manifest(const std::filesystem::path& folder, const Manifest& manifest);

/// Reads `folder`/manifest.json. Throws Error that names it.
Manifest read_manifest(const std::filesystem::path& folder);

}  // namespace crnet::detail
