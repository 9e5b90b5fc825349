// crnet checkpoint: looks after saved checkpoints.
#include <cstdio>
#include <filesystem>

#include "cli/commands.h"
#include "crnet/core/error.h"
#include "crnet/core/format.h"
#include "crnet/train/consolidate.h"

namespace crnet {
namespace {

namespace fs = std::filesystem;

cxxopts::Options checkpoint_options() {
  cxxopts::Options options(
      "crnet checkpoint",
      "verify: reads a checkpoint, or every one of a run, and checks sizes, hashes and tensors.\n"
      "consolidate: writes a checkpoint of several processes as one safetensors file of weights "
      "and one of the optimizer's tensors.");
  options.add_options()("action", "verify or consolidate", cxxopts::value<std::string>())(
      "path", "a checkpoint's folder, or a run's", cxxopts::value<std::string>())(
      "out", "consolidate: the folder to make", cxxopts::value<std::string>())("h,help",
                                                                               "this text");
  options.parse_positional({"action", "path"});
  options.custom_help("verify PATH | consolidate CHECKPOINT --out FOLDER").positional_help("");
  return options;
}

uint64_t bytes_of(const Checkpoint& checkpoint) {
  uint64_t bytes = 0;
  for (const auto& [name, digest] : checkpoint.files) bytes += digest.bytes;
  return bytes;
}

// One line; whether it is sound.
bool verify(const fs::path& folder) {
  try {
    const Checkpoint checkpoint = open_checkpoint(folder);
    const size_t weights = checkpoint.model().names().size();
    const size_t moments = checkpoint.optimizer().names().size();
    std::printf("%s: sound, step %ld, %zu weights and %zu optimizer tensors in %zu files, %s\n",
                folder.c_str(), static_cast<long>(checkpoint.state.step), weights, moments,
                checkpoint.files.size(),
                format_bytes(static_cast<double>(bytes_of(checkpoint))).c_str());
    return true;
  } catch (const Error& failure) {
    std::printf("%s: damaged: %s\n", folder.c_str(), failure.what());
    return false;
  }
}

int verify_all(const fs::path& path) {
  if (!fs::is_directory(path)) {
    throw UsageError("[checkpoint] expected a checkpoint's folder, or a run's, got " +
                     path.string());
  }
  if (!fs::exists(path / "checkpoints")) return verify(path) ? 0 : 1;
  const auto folders = CheckpointStore(path / "checkpoints").list();
  if (folders.empty()) {
    throw Error("[checkpoint] expected a checkpoint in " + (path / "checkpoints").string() +
                ", got none");
  }
  bool all_sound = true;
  for (const auto& folder : folders) all_sound = verify(folder) && all_sound;
  return all_sound ? 0 : 1;
}

int consolidate_into(const fs::path& path, const fs::path& out) {
  if (fs::exists(path / "checkpoints")) {
    throw UsageError("[checkpoint] consolidate: expected one checkpoint's folder, got a run's, " +
                     path.string() + "; choose one of " + (path / "checkpoints").string());
  }
  const Checkpoint made = consolidate(open_checkpoint(path), out);
  std::printf(
      "%s: all weights in model.safetensors and the optimizer's tensors in optimizer.safetensors, "
      "%s in all; for eval, generate and train --resume\n",
      made.folder.c_str(), format_bytes(static_cast<double>(bytes_of(made))).c_str());
  return 0;
}

}  // namespace

int run_checkpoint(int argc, char** argv) {
  auto options = checkpoint_options();
  const auto parsed = parse_arguments(options, argc, argv);
  if (parsed.count("help") != 0) {
    std::printf("%s", options.help().c_str());
    return 0;
  }
  const std::string action = required(parsed, "action", "checkpoint", "verify or consolidate");
  if (action != "verify" && action != "consolidate") {
    throw UsageError("[checkpoint] expected verify or consolidate, got " + action +
                     "; see crnet checkpoint --help");
  }
  const fs::path path = required(parsed, "path", "checkpoint", "a folder");
  if (action == "verify") return verify_all(path);
  return consolidate_into(path, required(parsed, "out", "checkpoint", "--out FOLDER"));
}

}  // namespace crnet
