#include "crnet/data/tokenizer.h"

#include <gtest/gtest.h>
#include <sentencepiece_trainer.h>

#include <unordered_map>

#include "crnet/core/error.h"
#include "data/cached_encoder.h"
#include "test_files.h"

namespace crnet {
namespace {

using namespace test;

Tokenizer train_on(const std::string& text, int32_t vocab_size) {
  bool handed_out = false;
  return train_tokenizer({.vocab_size = vocab_size}, [&](std::string& document) {
    document = text;
    return !std::exchange(handed_out, true);
  });
}

using Arguments = std::unordered_map<std::string, std::string>;

// Sentences out of a list, for models with other settings than train_tokenizer's.
class Lines final : public sentencepiece::SentenceIterator {
 public:
  explicit Lines(const std::string& text) : stream_(text) { Next(); }
  bool done() const override { return done_; }
  void Next() override { done_ = !std::getline(stream_, line_); }
  const std::string& value() const override { return line_; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  std::istringstream stream_;
  std::string line_;
  bool done_ = false;
};

std::string foreign_model(const Arguments& arguments) {
  Lines lines(real_text(200'000));
  Arguments all = {{"vocab_size", "800"}, {"minloglevel", "2"}, {"num_threads", "2"}};
  all.insert(arguments.begin(), arguments.end());
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(all, &lines, &model);
  if (!status.ok()) throw std::runtime_error(status.ToString());
  return model;
}

// As LLaMA's tokenizer was trained.
Arguments like_llama() {
  return {{"model_type", "bpe"},
          {"byte_fallback", "true"},
          {"split_digits", "true"},
          {"allow_whitespace_only_pieces", "true"},
          {"normalization_rule_name", "identity"},
          {"remove_extra_whitespaces", "false"}};
}

// As T5's: a unigram model that normalises, with its control pieces at other places and no <s>.
Arguments like_t5() {
  return {{"model_type", "unigram"},
          {"pad_id", "0"},
          {"eos_id", "1"},
          {"unk_id", "2"},
          {"bos_id", "-1"}};
}

const std::vector<std::string>& awkward_texts() {
  static const std::vector<std::string> texts = {
      "",
      " ",
      "   ",
      "\n",
      "\n\n\n",
      "  two leading",
      "two trailing  ",
      "a\n  indented\n\tby tab\r\n\n\nend\n",
      "12345 6.7e-89",
      "caf\xC3\xA9 \xE2\x80\x9Cquotes\xE2\x80\x9D \xEF\xAC\x81 ligature, \xEF\xBC\xA1",
      "\xE6\x97\xA5\xE6\x9C\xAC\xE8\xAA\x9E \xF0\x9F\xA6\x99 \xF4\x8F\xBF\xBD",
      "e\xCC\x81 combining",
      std::string("nul \0 inside", 12),
      "<s> </s> <unk> <0x0A> are only text",
      std::string(500, 'x') + std::string(300, ' ') + "y",
  };
  return texts;
}

TEST(Tokenizer, DecodeOfEncodeIsTheText) {
  const auto& tokenizer = small_tokenizer();
  for (const auto& text : awkward_texts()) {
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
  }
  const auto text = real_text(200'000);
  const auto ids = tokenizer.encode(text);
  EXPECT_EQ(tokenizer.decode(ids), text);
  EXPECT_LT(ids.size(), text.size() / 2) << "pieces are longer than two bytes on average";
}

TEST(Tokenizer, ControlPiecesHaveTheirPlaces) {
  const auto& tokenizer = small_tokenizer();
  EXPECT_EQ(tokenizer.vocab_size(), 1000);
  EXPECT_EQ(tokenizer.bos_id(), 1);
  EXPECT_EQ(tokenizer.eos_id(), 2);
  EXPECT_EQ(tokenizer.decode(std::vector<int32_t>{2}), "");
  for (const auto& text : awkward_texts()) {
    for (const int32_t id : tokenizer.encode(text)) EXPECT_GT(id, 2) << text;
  }
}

TEST(Tokenizer, SameTextGivesTheSameModel) {
  const auto text = real_text(100'000);
  const auto first = train_on(text, 600), second = train_on(text, 600);
  EXPECT_EQ(first.bytes(), second.bytes());
  EXPECT_EQ(first.hash(), second.hash());
  EXPECT_EQ(first.hash().size(), 16U);
  EXPECT_NE(train_on(text, 601).hash(), first.hash());
}

TEST(Tokenizer, LoadedModelEncodesAsTheTrainedOne) {
  const TempFolder folder;
  const auto& trained = small_tokenizer();
  const auto loaded = Tokenizer::load(write_file(folder / "t.model", trained.bytes()));
  const auto text = real_text(20'000);
  EXPECT_EQ(loaded.hash(), trained.hash());
  EXPECT_EQ(loaded.encode(text), trained.encode(text));
}

TEST(Tokenizer, FileThatIsNoModelIsNamed) {
  const TempFolder folder;
  const auto missing = message_of<Error>([&] { Tokenizer::load(folder / "missing.model"); });
  EXPECT_TRUE(contains(missing, "missing.model")) << missing;
  for (const std::string content : {"", "hello, I am text\n", "{\"a\": 1}"}) {
    const auto path = write_file(folder / "not.model", content);
    const auto message = message_of<Error>([&] { Tokenizer::load(path); });
    EXPECT_TRUE(contains(message, "not.model")) << content << ": " << message;
  }
  const auto cut = small_tokenizer().bytes().substr(0, 5000);
  const auto path = write_file(folder / "cut.model", cut);
  EXPECT_TRUE(contains(message_of<Error>([&] { Tokenizer::load(path); }), "cut.model"));
}

TEST(Tokenizer, TooLittleTextForTheVocabularyIsAnError) {
  const auto message = message_of<Error>([] { train_on("too little text\n", 5000); });
  EXPECT_TRUE(contains(message, "5000 pieces") && contains(message, "enough for at most"))
      << message;
  EXPECT_NE(message_of<Error>([] { train_on("", 1000); }), "");
}

TEST(Tokenizer, FailureWhileReadingForTheTrainingIsPassedOn) {
  const auto message = message_of<Error>([] {
    (void)train_tokenizer({}, [](std::string&) -> bool { throw Error("line 7 is bad"); });
  });
  EXPECT_EQ(message, "line 7 is bad");
}

TEST(Tokenizer, ModelsOfOthersKeepTheirControlPieces) {
  const auto t5 = Tokenizer::from_bytes(foreign_model(like_t5()), "t5");
  EXPECT_EQ(t5.eos_id(), 1);
  EXPECT_EQ(t5.bos_id(), -1);
  EXPECT_EQ(t5.decode(t5.encode("Two words")), "Two words");
  const auto llama = Tokenizer::from_bytes(foreign_model(like_llama()), "llama");
  EXPECT_EQ(llama.eos_id(), 2);
  EXPECT_EQ(llama.decode(llama.encode("  Two\n words ")), "  Two\n words ");
}

TEST(Tokenizer, ModelWithoutAnEndOfSequenceIsRefused) {
  const auto model = foreign_model({{"model_type", "bpe"}, {"eos_id", "-1"}});
  const auto message = message_of<Error>([&] { Tokenizer::from_bytes(model, "no-eos.model"); });
  EXPECT_TRUE(contains(message, "no-eos.model") && contains(message, "end-of-sequence")) << message;
}

TEST(Tokenizer, IdOutsideTheVocabularyIsRefused) {
  EXPECT_THROW((void)small_tokenizer().decode(std::vector<int32_t>{1000}), Error);
  EXPECT_THROW((void)small_tokenizer().decode(std::vector<int32_t>{-1}), Error);
}

TEST(IncrementalDecoder, PartsPutTogetherAreTheText) {
  const auto& tokenizer = small_tokenizer();
  auto texts = awkward_texts();
  texts.push_back(real_text(5'000));
  for (const auto& text : texts) {
    IncrementalDecoder decoder(tokenizer);
    std::string shown;
    for (const int32_t id : tokenizer.encode(text)) shown += decoder.push(id);
    shown += decoder.finish();
    EXPECT_EQ(shown, text);
  }
}

TEST(IncrementalDecoder, CharacterIsShownOnlyWhenComplete) {
  const auto& tokenizer = small_tokenizer();
  const auto ids = tokenizer.encode("\xF0\x9F\xA6\x99");
  ASSERT_GE(ids.size(), 4U) << "the letter should be unknown to the model";
  IncrementalDecoder decoder(tokenizer, tokenizer.encode("A prompt"));
  for (size_t i = 0; i + 1 < ids.size(); ++i) EXPECT_EQ(decoder.push(ids[i]), "");
  EXPECT_EQ(decoder.push(ids.back()), "\xF0\x9F\xA6\x99");
}

void expect_same_ids(const Tokenizer& tokenizer) {
  CachedEncoder encoder(tokenizer);
  auto texts = awkward_texts();
  texts.push_back("a \xE2\x96\x81 b\xE2\x96\x81  c");
  texts.push_back(real_text(300'000));
  texts.push_back(sample_text(50));
  for (const auto& text : texts) {
    std::vector<int32_t> ids;
    encoder.encode(text, ids);
    EXPECT_EQ(ids, tokenizer.encode(text));
  }
}

TEST(CachedEncoder, GivesTheIdsOfTheTokenizer) {
  EXPECT_TRUE(CachedEncoder(small_tokenizer()).caches());
  expect_same_ids(small_tokenizer());
}

TEST(CachedEncoder, GivesTheIdsOfAModelThatPutsASpaceFirst) {
  const auto tokenizer = Tokenizer::from_bytes(foreign_model(like_llama()), "llama");
  EXPECT_TRUE(CachedEncoder(tokenizer).caches());
  expect_same_ids(tokenizer);
}

TEST(CachedEncoder, AsksAModelThatNormalisesDirectly) {
  const auto tokenizer = Tokenizer::from_bytes(foreign_model(like_t5()), "t5");
  EXPECT_FALSE(CachedEncoder(tokenizer).caches());
  expect_same_ids(tokenizer);
}

TEST(CachedEncoder, AsksAModelWhosePiecesSpanWordsDirectly) {
  auto arguments = like_llama();
  arguments["split_by_whitespace"] = "false";
  const auto tokenizer = Tokenizer::from_bytes(foreign_model(arguments), "spanning");
  EXPECT_FALSE(CachedEncoder(tokenizer).caches());
  expect_same_ids(tokenizer);
}

TEST(IncrementalDecoder, GoesOnAfterAPromptWithItsSpaces) {
  const auto tokenizer = Tokenizer::from_bytes(foreign_model(like_llama()), "llama");
  const std::string prompt = "Once upon", rest = " a time,\n  there was";
  const auto prompt_ids = tokenizer.encode(prompt), ids = tokenizer.encode(prompt + rest);
  ASSERT_TRUE(std::equal(prompt_ids.begin(), prompt_ids.end(), ids.begin()));
  IncrementalDecoder decoder(tokenizer, prompt_ids);
  std::string shown;
  for (size_t i = prompt_ids.size(); i < ids.size(); ++i) shown += decoder.push(ids[i]);
  EXPECT_EQ(shown + decoder.finish(), rest);
}

}  // namespace
}  // namespace crnet
