// Text to token shards: what `crnet prepare` does.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "crnet/data/data_index.h"

namespace crnet {

struct PrepareOptions {
  std::vector<std::filesystem::path> inputs;  ///< Files and folders: see text_source.h.
  std::filesystem::path output;               ///< Folder to make.
  std::filesystem::path tokenizer;            ///< A SentencePiece model, or
  int32_t train_tokenizer = 0;                ///< the number of pieces of one to train.
  std::string field = "text";                 ///< Key of the text in a line of JSONL.
  int64_t document_bytes = 16 << 10;          ///< Plain text: about where a document is cut.
  double validation_fraction = 0.01;          ///< Share of documents kept for validation.
  uint64_t seed = 0;                          ///< Of the choice of documents.
  int64_t shard_tokens = 100'000'000;         ///< Tokens in a shard.
  int64_t threads = 0;                        ///< That encode; 0: one for each core.
  int64_t tokenizer_bytes = 200'000'000;      ///< Text that a tokenizer is trained on, at most.
  bool force = false;                         ///< Replace a data set that is already there.

  /// Throws UsageError, naming the option as the command line has it.
  void validate() const;
};

struct PrepareResult {
  DataIndex index;
  double tokenizer_seconds = 0;  ///< Training the tokenizer.
  double encode_seconds = 0;     ///< Reading, encoding and writing everything.
  int64_t threads = 0;
  int64_t num_replaced = 0;       ///< Bytes that were not UTF-8, now U+FFFD.
  int64_t num_skipped_files = 0;  ///< Files that were no text.
};

/// Reads every document, encodes it, ends it with the tokenizer's end-of-sequence and appends it to
/// the shards of its split: `train-00000.bin`, …, `validation-00000.bin`, …, with `tokenizer.model`
/// and, last, `index.json`.
///
/// Which documents are for validation depends on their text and `seed` alone: a hash of the whole
/// document below validation_fraction. So it is the same however files are named, ordered, split or
/// compressed, and copies of a document land in one split. 0 makes no validation split. A trained
/// tokenizer sees training documents only; of a corpus larger than tokenizer_bytes, a sample.
///
/// The same inputs and options give the same bytes, whatever the number of threads. Memory does not
/// grow with the corpus. Until all is written every file's name ends in ".tmp", and a data set that
/// is being replaced stays: an interrupted run leaves nothing that looks complete, and the next run
/// clears it away.
///
/// Throws UsageError for options and inputs (a finished data set in `output` without `force` is
/// one), Error for unreadable text, a full disk, or where a split would be empty.
PrepareResult prepare(const PrepareOptions& options);

}  // namespace crnet
