#include "train/run_start.h"

#include "crnet/core/error.h"
#include "crnet/core/file.h"
#include "crnet/core/format.h"

namespace crnet {
namespace {

// A run goes on in its own folder from its newest checkpoint, or in a new folder from any: else a
// later `--resume auto` would take an abandoned continuation, or another run, for the newest state.
void refuse_to_fork(const RunFolder& folder, const CheckpointStore& store,
                    const std::filesystem::path& chosen) {
  if (!folder.is_used()) return;
  const auto saved = store.list();
  std::error_code failure;
  if (!saved.empty() && std::filesystem::equivalent(saved.back(), chosen, failure)) return;
  throw UsageError("[train] --resume: expected the newest checkpoint of the run in " +
                   folder.path.string() + (saved.empty() ? "" : ", " + saved.back().string()) +
                   ", got " + chosen.string() +
                   "; go on from that one in a new folder with --set train.run_dir=FOLDER");
}

}  // namespace

RunData open_data(const LoadedConfig<RunConfig>& loaded) {
  const RunConfig& config = loaded.config;
  if (config.data.path.empty()) {
    throw UsageError(
        loaded.problem("data.path",
                       "expected the folder that `crnet prepare` made, got nothing; add --set "
                       "data.path=FOLDER"));
  }
  if (!std::filesystem::exists(std::filesystem::path(config.data.path) / kIndexFile)) {
    throw UsageError(
        loaded.problem("data.path", "expected a folder that `crnet prepare` finished, got " +
                                        config.data.path + ", which has no " + kIndexFile));
  }
  DataSetChecks checks;
  checks.verify = config.data.verify;
  RunData data{DataSet::open(config.data.path, "train", checks), std::nullopt};
  const DataIndex& index = data.train.index();
  const auto tokenizer = std::filesystem::path(config.data.path) / kTokenizerFile;
  if (digest_file(tokenizer).xxh3 != index.tokenizer_hash) {
    throw Error("[data] expected " + tokenizer.string() +
                " to be the tokenizer that the shards were made with (" + index.tokenizer_hash +
                "), got another; prepare the data again");
  }
  if (index.vocab_size > config.model.vocab_size) {
    throw UsageError(loaded.problem(
        "model.vocab_size",
        format("expected at least %d, the vocabulary of %s, got %ld", index.vocab_size,
               config.data.path.c_str(), static_cast<long>(config.model.vocab_size))));
  }
  if (index.splits.contains("validation") && !index.splits.at("validation").shards.empty()) {
    data.validation = DataSet::open(config.data.path, "validation", checks);
    (void)TokenWindows(*data.validation, config.data.sequence_length);
  }
  (void)TokenWindows(data.train, config.data.sequence_length);
  return data;
}

std::vector<std::string> find_candidates(const RunFolder& folder, const std::string& resume,
                                         const CheckpointStore& store) {
  if (resume.empty()) {
    if (!folder.is_used()) return {};
    throw UsageError("[train] train.run_dir: expected a new folder, got " + folder.path.string() +
                     ", which holds a run; go on with --resume auto, or choose another with --set "
                     "train.run_dir=FOLDER");
  }
  if (resume != "auto") {
    if (!std::filesystem::is_directory(resume)) {
      throw UsageError("[train] --resume: expected auto or a checkpoint's folder, got " + resume +
                       ", which is no folder");
    }
    refuse_to_fork(folder, store, resume);
    return {resume};
  }
  std::vector<std::string> newest_first;
  for (const auto& saved : store.list()) newest_first.insert(newest_first.begin(), saved.string());
  return newest_first;
}

}  // namespace crnet
