// crnet prepare: text to token shards.
#include <cstdio>
#include <cxxopts.hpp>

#include "cli/commands.h"
#include "crnet/core/error.h"
#include "crnet/core/format.h"
#include "crnet/core/log.h"
#include "crnet/data/prepare.h"

namespace crnet {
namespace {

cxxopts::Options make_options() {
  cxxopts::Options options(
      "crnet prepare",
      "Turns text into token shards for training: plain text and JSONL (.jsonl, .ndjson), each\n"
      "also .gz or .zst, files or folders. A plain file longer than --document-bytes is cut into\n"
      "documents at blank lines, or at a line's end where none comes before twice that.\n");
  options.custom_help("[OPTION...] PATH…");
  const PrepareOptions defaults;
  const auto text = [] { return cxxopts::value<std::string>(); };
  const auto count = [](auto fallback) {
    return cxxopts::value<decltype(fallback)>()->default_value(std::to_string(fallback));
  };
  auto add = options.add_options();
  add("i,input", "files and folders of text", text(), "PATH…");
  add("o,output", "folder to make", text(), "DIR");
  add("train-tokenizer", "train a tokenizer with this many pieces", cxxopts::value<int32_t>(), "N");
  add("tokenizer", "or use this SentencePiece model", text(), "FILE");
  add("field", "key of the text in a line of JSONL", text()->default_value(defaults.field), "KEY");
  add("validation-fraction", "share of documents kept for validation",
      cxxopts::value<double>()->default_value(format("%g", defaults.validation_fraction)), "X");
  add("seed", "of the choice of validation documents", count(defaults.seed), "N");
  add("shard-tokens", "tokens in a shard", count(defaults.shard_tokens), "N");
  add("document-bytes", "about where a plain file is cut into documents",
      count(defaults.document_bytes), "N");
  add("tokenizer-bytes", "most text that a tokenizer is trained on",
      count(defaults.tokenizer_bytes), "N");
  add("threads", "that encode; 0: one for each core", count(defaults.threads), "N");
  add("force", "replace the data that the folder holds");
  add("h,help", "this text");
  return options;
}

PrepareOptions to_prepare_options(const cxxopts::ParseResult& parsed) {
  PrepareOptions options;
  // Not a cxxopts list, which would split a path at its comma.
  for (const auto& argument : parsed.arguments()) {
    if (argument.key() == "input") options.inputs.emplace_back(argument.value());
  }
  options.inputs.insert(options.inputs.end(), parsed.unmatched().begin(), parsed.unmatched().end());
  if (parsed.count("output") > 0) options.output = parsed["output"].as<std::string>();
  if (parsed.count("tokenizer") > 0) options.tokenizer = parsed["tokenizer"].as<std::string>();
  if (parsed.count("train-tokenizer") > 0) {
    options.train_tokenizer = parsed["train-tokenizer"].as<int32_t>();
  }
  options.field = parsed["field"].as<std::string>();
  options.validation_fraction = parsed["validation-fraction"].as<double>();
  options.seed = parsed["seed"].as<uint64_t>();
  options.shard_tokens = parsed["shard-tokens"].as<int64_t>();
  options.document_bytes = parsed["document-bytes"].as<int64_t>();
  options.tokenizer_bytes = parsed["tokenizer-bytes"].as<int64_t>();
  options.threads = parsed["threads"].as<int64_t>();
  options.force = parsed["force"].as<bool>();
  return options;
}

void print_split(const std::string& name, const SplitIndex& split) {
  std::printf("%-11s %s documents, %s of text, %s tokens in %zu shard(s), %.2f bytes per token\n",
              (name + ":").c_str(), format_count(static_cast<double>(split.documents)).c_str(),
              format_bytes(static_cast<double>(split.text_bytes)).c_str(),
              format_count(static_cast<double>(split.tokens)).c_str(), split.shards.size(),
              split.bytes_per_token());
}

void print_summary(const PrepareOptions& options, const PrepareResult& result) {
  constexpr double kMega = 1e6;
  double bytes = 0;
  for (const auto& [name, split] : result.index.splits) {
    print_split(name, split);
    bytes += static_cast<double>(split.text_bytes);
  }
  std::printf("tokenizer:  %d pieces, hash %s", result.index.vocab_size,
              result.index.tokenizer_hash.c_str());
  if (options.train_tokenizer > 0) {
    std::printf(", trained in %s", format_duration(result.tokenizer_seconds).c_str());
  }
  std::printf("\nencoded in %s: %.1f MB/s on %ld thread(s)\n",
              format_duration(result.encode_seconds).c_str(), bytes / kMega / result.encode_seconds,
              static_cast<long>(result.threads));
  std::printf("wrote %s\n", options.output.c_str());
}

void warn_of_losses(const PrepareResult& result) {
  if (result.num_replaced > 0) {
    log::warn(format("%ld byte(s) of the inputs were not UTF-8 and became U+FFFD",
                     static_cast<long>(result.num_replaced)));
  }
  if (result.num_skipped_files > 0) {
    log::warn(format("%ld file(s) were no text and were skipped",
                     static_cast<long>(result.num_skipped_files)));
  }
}

}  // namespace

int run_prepare(int argc, char** argv) {
  auto options = make_options();
  const auto parsed = parse_arguments(options, argc, argv, /*takes_further=*/true);
  if (parsed.count("help") > 0) {
    std::fputs(options.help().c_str(), stdout);
    return 0;
  }
  const auto chosen = to_prepare_options(parsed);
  const auto result = prepare(chosen);
  warn_of_losses(result);
  print_summary(chosen, result);
  return 0;
}

}  // namespace crnet
