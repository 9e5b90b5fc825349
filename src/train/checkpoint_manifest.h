// manifest.json of a checkpoint: the state, and what every other file must be.
#pragma once

#include <map>
#include <string>

#include "crnet/core/file.h"
#include "crnet/train/checkpoint.h"

namespace crnet::detail {

inline constexpr const char* kManifestFile = "manifest.json";
inline constexpr const char* kModelFile = "model.safetensors";
inline constexpr const char* kOptimizerFile = "optimizer.safetensors";
inline constexpr const char* kTokenizerFile = "tokenizer.model";

struct Manifest {
  TrainState state;
  std::map<std::string, FileDigest> files;  // by name within the checkpoint's folder
};

/// Throws Error where one of the state's JSON texts is none.
std::string encode_manifest(const Manifest& manifest);

/// Reads `folder`/manifest.json. Throws Error that names it.
Manifest read_manifest(const std::filesystem::path& folder);

}  // namespace crnet::detail
