#include "crnet/data/prepare.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <set>
#include <thread>
#include <utility>

#include "crnet/core/error.h"
#include "crnet/core/file.h"
#include "crnet/core/format.h"
#include "crnet/core/log.h"
#include "crnet/data/text_source.h"
#include "crnet/data/tokenizer.h"
#include "data/checksum.h"
#include "data/output_folder.h"
#include "data/prepare_progress.h"
#include "data/split_encoder.h"

namespace crnet {
namespace fs = std::filesystem;

namespace {

class Stopwatch {
 public:
  [[nodiscard]] double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

TextSource open_text(const PrepareOptions& options) {
  return TextSource({options.inputs, options.field, options.document_bytes});
}

// A number in [0, 1) that the text and the seed alone decide.
double lot(std::string_view document, uint64_t seed) {
  constexpr double kTwoToMinus53 = 0x1p-53;
  return static_cast<double>(checksum(document, seed) >> 11) * kTwoToMinus53;
}

bool is_validation(std::string_view document, const PrepareOptions& options) {
  return lot(document, options.seed) < options.validation_fraction;
}

// Else the next run would read what this one wrote.
void refuse_output_within_input(const PrepareOptions& options) {
  const auto output = fs::weakly_canonical(options.output);
  for (const auto& input : options.inputs) {
    if (!fs::is_directory(input)) continue;
    const auto relative = output.lexically_relative(fs::weakly_canonical(input));
    if (relative.empty() || *relative.begin() == "..") continue;
    throw UsageError("[prepare] expected an output folder outside the inputs, got " +
                     options.output.string() + " inside " + input.string());
  }
}

void check_tokenizer(const fs::path& path) {
  if (!fs::is_regular_file(path)) {
    throw UsageError("[prepare] --tokenizer: expected a SentencePiece model, got " + path.string() +
                     ", which is no file");
  }
  try {
    Tokenizer::load(path);
  } catch (const Error& failure) {
    throw UsageError(std::string("[prepare] --tokenizer: ") + failure.what());
  }
}

void check_inputs(const PrepareOptions& options) {
  open_text(options);
  refuse_output_within_input(options);
  if (options.train_tokenizer == 0) check_tokenizer(options.tokenizer);
}

Tokenizer train(const PrepareOptions& options) {
  auto source = open_text(options);
  const auto budget = static_cast<double>(options.tokenizer_bytes);
  const double share =
      budget / static_cast<double>(std::max<int64_t>(source.estimated_text_bytes(), 1));
  log::info(format(
      "training a tokenizer of %d pieces on %s of text", options.train_tokenizer,
      format_bytes(std::min(budget, static_cast<double>(source.estimated_text_bytes()))).c_str()));
  // Another lot than the one that chose the validation documents.
  const uint64_t sample_seed = ~options.seed;
  // The estimate of compressed text may be wrong; memory may not grow with it.
  double left = 2 * budget;
  PrepareProgress progress("reading for the tokenizer", source.stored_bytes());
  const auto next_document = [&](std::string& document) {
    while (left > 0 && source.next(document)) {
      progress.update(source.stored_bytes_read());
      if (is_validation(document, options)) continue;
      if (share < 1 && lot(document, sample_seed) >= share) continue;
      left -= static_cast<double>(document.size());
      return true;
    }
    log::info("the text is read; merging it into pieces");
    return false;
  };
  return train_tokenizer({.vocab_size = options.train_tokenizer}, next_document);
}

Tokenizer obtain_tokenizer(const PrepareOptions& options, PrepareResult& result) {
  if (options.train_tokenizer == 0) return Tokenizer::load(options.tokenizer);
  const Stopwatch watch;
  auto tokenizer = train(options);
  result.tokenizer_seconds = watch.seconds();
  return tokenizer;
}

void encode_all(const PrepareOptions& options, const Tokenizer& tokenizer, Splits& splits,
                PrepareResult& result) {
  auto source = open_text(options);
  PrepareProgress progress("encoding", source.stored_bytes());
  SplitEncoder encoder(tokenizer, result.threads, splits);
  std::string document;
  while (source.next(document)) {
    const bool validation = is_validation(document, options);
    encoder.add(std::exchange(document, {}), validation);
    progress.update(source.stored_bytes_read());
  }
  encoder.finish();
  result.num_replaced = source.num_replaced();
  result.num_skipped_files = source.num_skipped_files();
}

void require_documents(const PrepareOptions& options, const Splits& splits) {
  const int64_t train = splits.train.index().documents;
  const int64_t validation = splits.validation.index().documents;
  const int64_t all = train + validation;
  if (all == 0) throw Error("[prepare] expected text, got inputs that hold no document");
  if (train == 0) {
    throw Error(
        format("[prepare] expected documents to train on, got all %ld chosen for "
               "validation; lower --validation-fraction (now %g) or give more text",
               static_cast<long>(all), options.validation_fraction));
  }
  if (validation == 0 && options.validation_fraction > 0) {
    // Three documents on average, so one at least in 19 of 20 draws; in whole percents.
    const double for_three = std::ceil(300.0 / static_cast<double>(all + 2)) / 100;
    const double fraction_for_some =
        std::min(0.5, std::max(for_three, 2 * options.validation_fraction));
    throw Error(
        format("[prepare] expected at least one validation document, got 0 of %ld; raise "
               "--validation-fraction (now %g) to %g or so, give more text, or do without "
               "by --validation-fraction 0",
               static_cast<long>(all), options.validation_fraction, fraction_for_some));
  }
}

std::map<std::string, std::string> describe(const PrepareOptions& options) {
  std::string inputs;
  for (const auto& input : options.inputs) {
    if (!inputs.empty()) inputs += "\n";
    inputs += input.string();
  }
  return {{"inputs", inputs},
          {"tokenizer", options.tokenizer.string()},
          {"train_tokenizer", std::to_string(options.train_tokenizer)},
          {"field", options.field},
          {"document_bytes", std::to_string(options.document_bytes)},
          {"validation_fraction", format("%g", options.validation_fraction)},
          {"seed", std::to_string(options.seed)},
          {"shard_tokens", std::to_string(options.shard_tokens)}};
}

// All names change at the very end, the index last.
void publish(const OutputFolder& folder, const Tokenizer& tokenizer, Splits& splits,
             const DataIndex& index) {
  folder.retire_index();
  std::set<std::string> names;
  for (const auto& [name, split] : index.splits) {
    for (const auto& shard : split.shards) names.insert(shard.file);
  }
  folder.remove_other_shards(names);
  splits.train.publish();
  splits.validation.publish();
  write_text_atomic(folder.path() / kTokenizerFile, tokenizer.bytes());
  index.save(folder.path());
}

void require_positive(const char* flag, int64_t value) {
  if (value > 0) return;
  throw UsageError(
      format("[prepare] expected %s above 0, got %ld", flag, static_cast<long>(value)));
}

}  // namespace

void PrepareOptions::validate() const {
  if (inputs.empty()) throw UsageError("[prepare] expected --input with files or folders");
  if (output.empty()) throw UsageError("[prepare] expected --output with a folder");
  if (tokenizer.empty() == (train_tokenizer == 0)) {
    throw UsageError(
        "[prepare] expected either --train-tokenizer with a number of pieces or "
        "--tokenizer with a model file");
  }
  constexpr int32_t kFewest = 300, kMost = 1'000'000;
  if (tokenizer.empty() && (train_tokenizer < kFewest || train_tokenizer > kMost)) {
    throw UsageError(format("[prepare] expected --train-tokenizer from %d to %d, got %d", kFewest,
                            kMost, train_tokenizer));
  }
  if (!(validation_fraction >= 0 && validation_fraction < 1)) {
    throw UsageError(format("[prepare] expected --validation-fraction from 0 to below 1, got %g",
                            validation_fraction));
  }
  require_positive("--shard-tokens", shard_tokens);
  require_positive("--document-bytes", document_bytes);
  require_positive("--tokenizer-bytes", tokenizer_bytes);
  if (threads < 0) {
    throw UsageError(
        format("[prepare] expected --threads of at least 0, got %ld", static_cast<long>(threads)));
  }
}

PrepareResult prepare(const PrepareOptions& options) {
  options.validate();
  PrepareResult result;
  result.threads = options.threads;
  if (result.threads == 0) result.threads = std::max(1U, std::thread::hardware_concurrency());

  // 1. Nothing is made before the inputs are known to be there.
  check_inputs(options);
  const OutputFolder folder(options.output, options.force);

  // 2. The tokenizer, trained or given.
  const auto tokenizer = obtain_tokenizer(options, result);

  // 3. Text to shards, under temporary names.
  const Stopwatch watch;
  const auto new_split = [&](const char* name) {
    return SplitWriter(folder.path(), name, tokenizer, options.shard_tokens);
  };
  Splits splits{new_split("train"), new_split("validation")};
  encode_all(options, tokenizer, splits, result);
  require_documents(options, splits);

  // 4. Everything gets its name.
  auto& index = result.index;
  index = {tokenizer.hash(), tokenizer.vocab_size(), tokenizer.eos_id(), describe(options), {}};
  index.splits["train"] = splits.train.index();
  if (splits.validation.index().documents > 0) {
    index.splits["validation"] = splits.validation.index();
  }
  publish(folder, tokenizer, splits, index);
  result.encode_seconds = watch.seconds();
  return result;
}

}  // namespace crnet
