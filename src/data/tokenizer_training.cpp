// The training half of tokenizer.h.
#include <sentencepiece_trainer.h>

#include <cstdlib>
#include <exception>
#include <unordered_map>

#include "crnet/core/error.h"
#include "crnet/core/format.h"
#include "crnet/data/tokenizer.h"
#include "data/utf8.h"

namespace crnet {
namespace {

// Hands the documents' lines to SentencePiece. Exceptions are kept rather than thrown through it.
class Sentences final : public sentencepiece::SentenceIterator {
 public:
  explicit Sentences(const std::function<bool(std::string&)>& next_document)
      : next_document_(next_document) {
    Next();
  }

  bool done() const override { return done_; }
  const std::string& value() const override { return sentence_; }
  sentencepiece::util::Status status() const override { return {}; }
  void Next() override {
    try {
      done_ = !advance();
    } catch (...) {
      failure_ = std::current_exception();
      done_ = true;
    }
  }
  void rethrow_failure() const {
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  bool advance() {
    for (;;) {
      while (position_ >= document_.size()) {
        position_ = 0;
        if (!next_document_(document_)) return false;
      }
      const size_t newline = std::min(document_.find('\n', position_), document_.size());
      const std::string_view line(document_.data() + position_, newline - position_);
      const std::string_view piece = line.substr(0, sentence_length(line));
      position_ += piece.size() + (piece.size() == line.size() ? 1 : 0);
      if (piece.empty()) continue;
      sentence_ = piece;
      return true;
    }
  }

  static size_t sentence_length(std::string_view line) {
    constexpr size_t kMostBytes = 4000;
    if (line.size() <= kMostBytes) return line.size();
    const size_t space = line.rfind(' ', kMostBytes);
    return space != std::string_view::npos && space > 0 ? space : utf8_boundary(line, kMostBytes);
  }

  const std::function<bool(std::string&)>& next_document_;
  std::string document_;
  size_t position_ = 0;
  std::string sentence_;
  bool done_ = false;
  std::exception_ptr failure_;
};

std::unordered_map<std::string, std::string> trainer_arguments(const TokenizerTraining& training) {
  return {
      {"model_type", "bpe"},
      {"vocab_size", std::to_string(training.vocab_size)},
      {"character_coverage", "0.9995"},
      {"byte_fallback", "true"},
      {"split_digits", "true"},
      {"allow_whitespace_only_pieces", "true"},
      {"normalization_rule_name", "identity"},
      {"remove_extra_whitespaces", "false"},
      {"add_dummy_prefix", "false"},
      {"user_defined_symbols", "\n,\t"},
      {"unk_id", "0"},
      {"bos_id", "1"},
      {"eos_id", "2"},
      {"max_sentence_length", "8192"},
      // Recorded in the model: a number of this machine would change its bytes.
      {"num_threads", "4"},
      {"minloglevel", "2"},
  };
}

}  // namespace

Tokenizer train_tokenizer(const TokenizerTraining& training,
                          const std::function<bool(std::string&)>& next_document) {
  Sentences sentences(next_document);
  std::string model;
  const auto status =
      sentencepiece::SentencePieceTrainer::Train(trainer_arguments(training), &sentences, &model);
  sentences.rethrow_failure();
  if (!status.ok()) {
    const std::string reason = status.ToString();
    const std::string limit = "a value <= ";  // how sentencepiece ends what it says of a small text
    if (const size_t at = reason.find(limit); at != std::string::npos) {
      throw UsageError(
          format("[tokenizer] expected text enough for %d pieces, got enough for at most %ld; give "
                 "more text, or a smaller --train-tokenizer",
                 training.vocab_size, std::atol(reason.c_str() + at + limit.size())));
    }
    throw Error(
        format("[tokenizer] expected to train %d pieces, got: %s; give more text, or "
               "another --train-tokenizer size",
               training.vocab_size, status.ToString().c_str()));
  }
  return Tokenizer::from_bytes(std::move(model), "the trained model");
}

}  // namespace crnet
