// Text to token ids and back.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace crnet {

/// A SentencePiece model: one that train_tokenizer made, or a given one such as T5's or LLaMA's.
/// Copies share the model. All members may be called from several threads at once.
class Tokenizer {
 public:
  /// Throws crnet::Error where the file is missing, is no SentencePiece model, or has no
  /// end-of-sequence piece.
  static Tokenizer load(const std::filesystem::path& path);

  /// From the content of a model file; `name` stands for it in errors.
  static Tokenizer from_bytes(std::string bytes, const std::string& name);

  /// Ids of valid UTF-8 `text`, without begin- and end-of-sequence.
  [[nodiscard]] std::vector<int32_t> encode(std::string_view text) const;

  /// Text of `ids`. With a tokenizer from train_tokenizer, decode(encode(x)) == x for every x
  /// without U+2581, which SentencePiece uses for the space. Control pieces such as
  /// end-of-sequence are left out. Throws crnet::Error for an id outside the vocabulary.
  [[nodiscard]] std::string decode(std::span<const int32_t> ids) const;

  [[nodiscard]] int32_t vocab_size() const;
  [[nodiscard]] int32_t eos_id() const;
  [[nodiscard]] int32_t bos_id() const;  ///< -1 where the model has none, as T5's.

  /// The piece as the model stores it: spaces are U+2581, bytes are "<0x0A>".
  [[nodiscard]] const std::string& piece(int32_t id) const;
  [[nodiscard]] float score(int32_t id) const;

  /// XXH3-64 of the model file, 16 hexadecimal digits.
  [[nodiscard]] const std::string& hash() const;

  /// The model file.
  [[nodiscard]] const std::string& bytes() const;

 private:
  struct Impl;
  explicit Tokenizer(std::shared_ptr<const Impl> impl);

  std::shared_ptr<const Impl> impl_;
};

/// Decodes one id at a time, for text that is shown as it is generated.
class IncrementalDecoder {
 public:
  /// `context`: the ids before the first that is pushed (a prompt); they are not decoded again.
  explicit IncrementalDecoder(Tokenizer tokenizer, std::vector<int32_t> context = {});

  /// The text that `id` adds; "" while a character still misses bytes.
  [[nodiscard]] std::string push(int32_t id);

  /// What an unfinished character left over.
  [[nodiscard]] std::string finish();

 private:
  [[nodiscard]] std::string pending_text() const;

  Tokenizer tokenizer_;
  std::vector<int32_t> context_;
  std::vector<int32_t> pending_;
};

struct TokenizerTraining {
  int32_t vocab_size = 32000;  ///< Pieces, with 3 control pieces, 256 bytes, newline and tab.
};

/// Trains a byte-pair-encoding model on the documents that `next_document` hands out until it
/// returns false. All of them are held in memory: hand out a sample of a large corpus.
///
/// No normalisation, no dummy prefix; runs of spaces may become pieces; digits are pieces of their
/// own; newline and tab too; what is not in the vocabulary falls back to bytes. <unk>, <s>, </s>
/// are 0, 1, 2. The same documents give the same model, byte for byte.
///
/// Throws crnet::Error where the text is too little or too varied for `vocab_size`; what
/// `next_document` throws is passed on.
[[nodiscard]] Tokenizer train_tokenizer(const TokenizerTraining& training,
                                        const std::function<bool(std::string&)>& next_document);

}  // namespace crnet
