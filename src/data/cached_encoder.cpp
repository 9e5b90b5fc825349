#include "data/cached_encoder.h"

#include <cmath>
#include <utility>

namespace crnet {
namespace {

constexpr std::string_view kSpace = "\xE2\x96\x81";  // U+2581: the space inside pieces.

// True where a space follows something else: such a piece reaches into the next word.
bool reaches_over_words(std::string_view piece) {
  const size_t first_other = piece.find_first_not_of(kSpace);
  return first_other != std::string_view::npos &&
         piece.find(kSpace, first_other) != std::string_view::npos;
}

// Byte-pair models score a piece by the negative of its place in the order of merges.
bool is_byte_pair_model(const Tokenizer& tokenizer) {
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    if (tokenizer.score(id) != std::nearbyint(tokenizer.score(id))) return false;
  }
  return true;
}

// Normalisation, the removal of spaces and a missing byte fallback all show in this text.
bool is_lossless(const Tokenizer& tokenizer) {
  const std::string text =
      "  a  b\t c\n\nd \xEF\xAC\x81 \xEF\xBC\xA1 \xC2\xB2 e\xCC\x81 \xE2\x80\xA6 "
      "\xF4\x8F\xBF\xBD  ";
  return tokenizer.decode(tokenizer.encode(text)) == text;
}

}  // namespace

CachedEncoder::CachedEncoder(Tokenizer tokenizer) : tokenizer_(std::move(tokenizer)) {
  words_are_independent_ = is_byte_pair_model(tokenizer_) && is_lossless(tokenizer_);
  newline_stands_alone_ = true;
  for (int32_t id = 0; id < tokenizer_.vocab_size(); ++id) {
    const auto& piece = tokenizer_.piece(id);
    if (reaches_over_words(piece)) words_are_independent_ = false;
    if (piece.find('\n') != std::string::npos && piece != "\n") newline_stands_alone_ = false;
  }
  const auto ids = tokenizer_.encode("a");
  has_dummy_prefix_ = !ids.empty() && tokenizer_.piece(ids[0]).starts_with(kSpace);
}

void CachedEncoder::encode(std::string_view text, std::vector<int32_t>& ids) {
  if (!words_are_independent_ || text.find(kSpace) != std::string_view::npos) {
    return append_encoded(text, ids);
  }
  for (size_t begin = 0; begin < text.size();) {
    const size_t length = word_length(text.substr(begin));
    auto word = text.substr(begin, length);
    // The model will put the space back.
    if (has_dummy_prefix_ && begin > 0) word.remove_prefix(1);
    encode_word(word, ids);
    begin += length;
  }
}

// Spaces and what follows them. A newline is a word of its own, unless the model would put a space
// before it; then spaces at the end of the text also belong to the word before them.
size_t CachedEncoder::word_length(std::string_view rest) const {
  const bool cut_newlines = newline_stands_alone_ && !has_dummy_prefix_;
  if (cut_newlines && rest[0] == '\n') return 1;
  size_t i = std::min(rest.find_first_not_of(' '), rest.size());
  const size_t end = rest.find_first_of(cut_newlines ? " \n" : " ", i);
  if (end == std::string_view::npos) return rest.size();
  const bool only_spaces_follow = rest.find_first_not_of(' ', end) == std::string_view::npos;
  return has_dummy_prefix_ && only_spaces_follow ? rest.size() : end;
}

void CachedEncoder::encode_word(std::string_view word, std::vector<int32_t>& ids) {
  constexpr size_t kLongestWord = 64;
  constexpr size_t kMostWords = 1 << 18;  // About 40 MB a thread.
  if (word.size() > kLongestWord) return append_encoded(word, ids);
  auto found = words_.find(word);
  if (found == words_.end()) {
    if (words_.size() >= kMostWords) words_.clear();
    found = words_.emplace(word, tokenizer_.encode(word)).first;
  }
  ids.insert(ids.end(), found->second.begin(), found->second.end());
}

void CachedEncoder::append_encoded(std::string_view text, std::vector<int32_t>& ids) const {
  const auto encoded = tokenizer_.encode(text);
  ids.insert(ids.end(), encoded.begin(), encoded.end());
}

}  // namespace crnet
