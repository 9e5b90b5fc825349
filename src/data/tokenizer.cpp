#include "crnet/data/tokenizer.h"

#include <sentencepiece_processor.h>

#include <algorithm>
#include <utility>

#include "crnet/core/error.h"
#include "crnet/core/file.h"
#include "crnet/core/format.h"

namespace crnet {

struct Tokenizer::Impl {
  sentencepiece::SentencePieceProcessor processor;
  std::string bytes;
  std::string hash;
};

Tokenizer::Tokenizer(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}

Tokenizer Tokenizer::load(const std::filesystem::path& path) {
  return from_bytes(read_text(path), path.string());
}

Tokenizer Tokenizer::from_bytes(std::string bytes, const std::string& name) {
  auto impl = std::make_shared<Impl>();
  const auto status = impl->processor.LoadFromSerializedProto(bytes);
  // SentencePiece accepts an empty file as a model without pieces.
  if (!status.ok() || impl->processor.GetPieceSize() == 0) {
    throw Error("[tokenizer] expected a SentencePiece model, got " + name +
                ", which is none; give the file that is often called spiece.model or "
                "tokenizer.model");
  }
  if (impl->processor.eos_id() < 0) {
    throw Error("[tokenizer] expected a model with an end-of-sequence piece, got " + name +
                ", which has none; train one with --train-tokenizer");
  }
  impl->hash = xxh3_hex(bytes);
  impl->bytes = std::move(bytes);
  return Tokenizer(std::move(impl));
}

std::vector<int32_t> Tokenizer::encode(std::string_view text) const {
  std::vector<int32_t> ids;
  const auto status = impl_->processor.Encode({text.data(), text.size()}, &ids);
  if (!status.ok()) throw Error("[tokenizer] could not encode text: " + status.ToString());
  return ids;
}

std::string Tokenizer::decode(std::span<const int32_t> ids) const {
  for (const int32_t id : ids) {
    if (id < 0 || id >= vocab_size()) {
      throw Error(format("[tokenizer] expected ids from 0 to %d, got %d", vocab_size() - 1, id));
    }
  }
  std::string text;
  const auto status = impl_->processor.Decode(std::vector<int>(ids.begin(), ids.end()), &text);
  if (!status.ok()) throw Error("[tokenizer] could not decode ids: " + status.ToString());
  return text;
}

int32_t Tokenizer::vocab_size() const {
  return impl_->processor.GetPieceSize();
}
int32_t Tokenizer::eos_id() const {
  return impl_->processor.eos_id();
}
int32_t Tokenizer::bos_id() const {
  return impl_->processor.bos_id();
}
const std::string& Tokenizer::piece(int32_t id) const {
  return impl_->processor.IdToPiece(id);
}
float Tokenizer::score(int32_t id) const {
  return impl_->processor.GetScore(id);
}
const std::string& Tokenizer::hash() const {
  return impl_->hash;
}
const std::string& Tokenizer::bytes() const {
  return impl_->bytes;
}

IncrementalDecoder::IncrementalDecoder(Tokenizer tokenizer, std::vector<int32_t> context)
    : tokenizer_(std::move(tokenizer)), context_(std::move(context)) {
  // The last few ids decide how the next is shown: whether its space is the text's first.
  constexpr size_t kEnough = 8;
  if (context_.size() > kEnough) context_.erase(context_.begin(), context_.end() - kEnough);
}

std::string IncrementalDecoder::push(int32_t id) {
  constexpr size_t kMostBytes = 4;  // Of one character.
  constexpr std::string_view kReplacement = "\xEF\xBF\xBD";
  pending_.push_back(id);
  const std::string text = pending_text();
  if (text.empty() || (text.ends_with(kReplacement) && pending_.size() < kMostBytes)) return "";
  context_ = std::exchange(pending_, {});
  return text;
}

std::string IncrementalDecoder::finish() {
  std::string text = pending_text();
  pending_.clear();
  return text;
}

std::string IncrementalDecoder::pending_text() const {
  auto all = context_;
  all.insert(all.end(), pending_.begin(), pending_.end());
  const auto before = tokenizer_.decode(context_).size();
  const auto text = tokenizer_.decode(all);
  return text.substr(std::min(before, text.size()));
}

}  // namespace crnet
