#include "train/checkpoint_manifest.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "crnet/core/error.h"
#include "crnet/core/format.h"

namespace crnet::detail {
namespace {

using nlohmann::json;

constexpr const char* kFormat = "crnet-checkpoint";
// Version 1 had one file of a kind; it reads as this one.
constexpr int kFormatVersion = 2;

/// The hash of the manifest itself, which protects it as it protects the other files. It is taken
/// of the values and not of the text, so that reformatting the file is harmless.
std::string checksum_of(json manifest) {
  manifest.erase("checksum");
  return xxh3_hex(manifest.dump());
}

json parse_text(const char* what, const std::string& text) {
  try {
    return json::parse(text);
  } catch (const json::exception& failure) {
    throw Error(format("[checkpoint] expected JSON as %s, got: %s", what, failure.what()));
  }
}

std::string to_hex(const std::string& bytes) {
  std::string text;
  for (const unsigned char byte : bytes) text += format("%02x", byte);
  return text;
}

std::string from_hex(const std::string& text) {
  std::string bytes;
  for (size_t i = 0; i + 1 < text.size(); i += 2) {
    bytes += static_cast<char>(std::stoi(text.substr(i, 2), nullptr, 16));
  }
  return bytes;
}

json encode_state(const TrainState& state) {
  return {{"step", state.step},
          {"samples_consumed", state.samples_consumed},
          {"tokens_seen", state.tokens_seen},
          {"skipped_steps", state.skipped_steps},
          {"rng_state", to_hex(state.rng_state)}};
}

TrainState decode_state(const json& root) {
  const auto& counters = root.at("state");
  TrainState state;
  counters.at("step").get_to(state.step);
  counters.at("samples_consumed").get_to(state.samples_consumed);
  counters.at("tokens_seen").get_to(state.tokens_seen);
  counters.at("skipped_steps").get_to(state.skipped_steps);
  state.rng_state = from_hex(counters.at("rng_state").get<std::string>());
  root.at("crnet_version").get_to(state.crnet_version);
  state.model_config = root.at("model_config").dump();
  state.run_config = root.at("run_config").dump();
  state.extra = root.at("extra").dump();
  return state;
}

FileDigests decode_files(const json& listed) {
  FileDigests files;
  for (const auto& [name, entry] : listed.items()) {
    // A manifest speaks of its own folder alone.
    if (name.find('/') != std::string::npos) throw Error("expected plain file names, got " + name);
    files[name] = {entry.at("bytes").get<uint64_t>(), entry.at("xxh3").get<std::string>()};
  }
  for (const char* kind : {kModel, kOptimizer}) {
    const bool has = std::any_of(files.begin(), files.end(),
                                 [&](const auto& file) { return is_file_of(kind, file.first); });
    if (!has) throw Error(format("expected it to list %s.safetensors or its shards", kind));
  }
  return files;
}

Manifest decode_manifest(const std::string& text) {
  const json root = json::parse(text);
  if (root.value("format", "") != kFormat) {
    throw Error(std::string("expected the format ") + kFormat + ", got another file");
  }
  const int version = root.at("format_version").get<int>();
  if (version < 1 || version > kFormatVersion) {
    throw Error(
        format("expected format version 1 to %d, got %d, which another version of crnet wrote",
               kFormatVersion, version));
  }
  if (root.at("checksum") != checksum_of(root)) {
    throw Error("expected the contents of its own checksum, got others: it was changed");
  }
  return {decode_state(root), decode_files(root.at("files"))};
}

}  // namespace

bool is_file_of(const std::string& kind, const std::string& name) {
  return name.starts_with(kind + ".") && name.ends_with(".safetensors");
}

std::string file_of(const std::string& kind, int part, int parts) {
  if (parts == 1) return kind + ".safetensors";
  return kind + format(".shard-%05d-of-%05d.safetensors", part, parts);
}

std::string encode_manifest(const Manifest& manifest) {
  const TrainState& state = manifest.state;
  json root = {{"format", kFormat},
               {"format_version", kFormatVersion},
               {"crnet_version", state.crnet_version},
               {"state", encode_state(state)},
               {"model_config", parse_text("the model config", state.model_config)},
               {"run_config", parse_text("the run config", state.run_config)},
               {"extra", parse_text("the trainer's state", state.extra)}};
  for (const auto& [name, digest] : manifest.files) {
    root["files"][name] = {{"bytes", digest.bytes}, {"xxh3", digest.xxh3}};
  }
  root["checksum"] = checksum_of(root);
  return root.dump(2) + "\n";
}

void write_manifest(const std::filesystem::path& folder, const Manifest& manifest) {
  OutputFile file(folder / kManifestFile);
  file.write(encode_manifest(manifest));
  file.close();
  sync_folder(folder);
}

Manifest read_manifest(const std::filesystem::path& folder) {
  const auto path = folder / kManifestFile;
  if (!std::filesystem::exists(path)) {
    throw Error(
        format("[checkpoint] expected %s, got no such file; a checkpoint is a folder like "
               "RUN/checkpoints/step-00000100",
               path.c_str()));
  }
  try {
    return decode_manifest(read_text(path));
  } catch (const std::exception& failure) {
    throw Error(format("[checkpoint] %s: %s", path.c_str(), failure.what()));
  }
}

}  // namespace crnet::detail
