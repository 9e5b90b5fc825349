#include "crnet/data/prepare.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "crnet/core/error.h"
#include "crnet/data/dataset.h"
#include "test_files.h"

namespace crnet {
namespace {

using namespace test;

class PrepareTest : public ::testing::Test {
 protected:
  PrepareTest() : tokenizer_(write_file(folder_ / "given.model", small_tokenizer().bytes())) {}

  // Documents small enough that a little text has many of them.
  [[nodiscard]] PrepareOptions options(const fs::path& input, const std::string& output) const {
    PrepareOptions options;
    options.inputs = {input};
    options.output = folder_ / output;
    options.tokenizer = tokenizer_;
    options.document_bytes = 2000;
    options.validation_fraction = 0.1;
    options.shard_tokens = 20'000;
    options.threads = 2;
    return options;
  }

  // All tokens of a split, in order.
  [[nodiscard]] std::vector<int64_t> tokens(const std::string& output,
                                            const std::string& split) const {
    const auto data = DataSet::open(folder_ / output, split, {.verify = true});
    std::vector<int64_t> all;
    for (const auto& shard : data.shards()) {
      std::vector<int64_t> part(static_cast<size_t>(shard.tokens()));
      shard.read(0, part);
      all.insert(all.end(), part.begin(), part.end());
    }
    return all;
  }

  // The documents of a split, decoded.
  [[nodiscard]] std::vector<std::string> documents(const std::string& output,
                                                   const std::string& split) const {
    std::vector<std::string> texts;
    std::vector<int32_t> ids;
    for (const int64_t token : tokens(output, split)) {
      if (token != small_tokenizer().eos_id()) {
        ids.push_back(static_cast<int32_t>(token));
        continue;
      }
      texts.push_back(small_tokenizer().decode(ids));
      ids.clear();
    }
    EXPECT_TRUE(ids.empty()) << "the last document ends too";
    return texts;
  }

  TempFolder folder_;
  fs::path tokenizer_;
};

TEST_F(PrepareTest, DocumentsComeBackFromTheShards) {
  const auto text = real_text(300'000);
  const auto result = prepare(options(write_file(folder_ / "in.txt", text), "out"));
  auto train = documents("out", "train"), validation = documents("out", "validation");
  size_t bytes = 0;
  for (const auto* split : {&train, &validation}) {
    for (const auto& document : *split) {
      bytes += document.size();
      EXPECT_TRUE(contains(text, document));
    }
  }
  EXPECT_EQ(bytes, text.size());
  const auto& index = result.index.splits.at("train");
  EXPECT_EQ(index.documents, static_cast<int64_t>(train.size()));
  EXPECT_EQ(index.tokens, static_cast<int64_t>(tokens("out", "train").size()));
  EXPECT_GT(index.shards.size(), 2U);
  EXPECT_EQ(index.shards[0].tokens, 20'000);
  const auto share = static_cast<double>(validation.size()) /
                     static_cast<double>(train.size() + validation.size());
  EXPECT_NEAR(share, 0.1, 0.1);
}

TEST_F(PrepareTest, FolderHoldsWhatTheIndexSaysAndNothingElse) {
  const auto result = prepare(options(write_file(folder_ / "in.txt", real_text(100'000)), "out"));
  std::set<std::string> expected = {kIndexFile, kTokenizerFile};
  for (const auto& [name, split] : result.index.splits) {
    for (const auto& shard : split.shards) expected.insert(shard.file);
  }
  std::set<std::string> found;
  for (const auto& [name, bytes] : files_of(folder_ / "out")) found.insert(name);
  EXPECT_EQ(found, expected);
  EXPECT_EQ(read_all(folder_ / "out" / kTokenizerFile), small_tokenizer().bytes());
  const auto index = DataIndex::load(folder_ / "out");
  EXPECT_EQ(index.tokenizer_hash, small_tokenizer().hash());
  EXPECT_EQ(index.vocab_size, 1000);
  EXPECT_EQ(index.splits.at("train").tokens, result.index.splits.at("train").tokens);
}

TEST_F(PrepareTest, NumberOfThreadsDoesNotChangeAByte) {
  const auto input = write_file(folder_ / "in.txt", real_text(600'000));
  auto one = options(input, "one"), many = options(input, "many");
  one.threads = 1;
  many.threads = 7;
  prepare(one);
  prepare(many);
  EXPECT_EQ(files_of(folder_ / "one"), files_of(folder_ / "many"));
}

TEST_F(PrepareTest, StorageOfTheTextDoesNotChangeTheTokens) {
  const auto text = real_text(200'000);
  const auto plain = write_file(folder_ / "plain.txt", text);
  prepare(options(plain, "plain"));
  TempFolder other;
  std::string lines;
  auto all = documents("plain", "train");
  for (const auto& document : all) lines += nlohmann::json{{"body", document}}.dump() + "\n";
  for (const auto& document : documents("plain", "validation")) {
    lines += nlohmann::json{{"body", document}}.dump() + "\n";
  }
  const std::map<std::string, std::string> stored = {{"a.txt.gz", gzip(text)},
                                                     {"a.txt.zst", zstd(text)},
                                                     {"a.jsonl", lines},
                                                     {"a.jsonl.gz", gzip(lines)},
                                                     {"a.jsonl.zst", zstd(lines)}};
  for (const auto& [name, bytes] : stored) {
    auto chosen = options(write_file(other / name, bytes), "of-" + name);
    chosen.field = "body";
    prepare(chosen);
    for (const std::string split : {"train", "validation"}) {
      EXPECT_EQ(tokens("of-" + name, split), tokens("plain", split)) << name;
    }
  }
}

TEST_F(PrepareTest, ValidationDocumentsDoNotDependOnNamesAndOrder) {
  for (int i = 0; i < 60; ++i) {
    const auto text = sample_text(3, static_cast<unsigned>(i + 1));
    write_file(folder_ / "a/" += std::to_string(i) + ".txt", text);
    write_file(folder_ / "b/sub/" += std::to_string(1000 - i) + ".txt", text);
  }
  prepare(options(folder_ / "a", "first"));
  prepare(options(folder_ / "b", "second"));
  auto reseeded = options(folder_ / "a", "third");
  reseeded.seed = 1;
  prepare(reseeded);
  const auto sorted = [&](const std::string& output) {
    auto texts = documents(output, "validation");
    std::sort(texts.begin(), texts.end());
    return texts;
  };
  EXPECT_EQ(sorted("first"), sorted("second"));
  EXPECT_NE(sorted("first"), sorted("third"));
}

TEST_F(PrepareTest, TokenizerIsTrainedOnTheText) {
  auto chosen = options(write_file(folder_ / "in.txt", real_text(200'000)), "out");
  chosen.tokenizer.clear();
  chosen.train_tokenizer = 700;
  prepare(chosen);
  const auto tokenizer = Tokenizer::load(folder_ / "out" / kTokenizerFile);
  EXPECT_EQ(tokenizer.vocab_size(), 700);
  EXPECT_EQ(DataIndex::load(folder_ / "out").tokenizer_hash, tokenizer.hash());
  chosen.output = folder_ / "again";
  prepare(chosen);
  EXPECT_EQ(files_of(folder_ / "out"), files_of(folder_ / "again"));
}

TEST_F(PrepareTest, TokenizerOfALargeCorpusIsTrainedOnASample) {
  auto chosen = options(write_file(folder_ / "in.txt", real_text(400'000)), "out");
  chosen.tokenizer.clear();
  chosen.train_tokenizer = 500;
  chosen.tokenizer_bytes = 60'000;
  prepare(chosen);
  chosen.output = folder_ / "whole";
  chosen.tokenizer_bytes = 10'000'000;
  prepare(chosen);
  EXPECT_NE(read_all(folder_ / "out" / kTokenizerFile),
            read_all(folder_ / "whole" / kTokenizerFile));
}

TEST_F(PrepareTest, FinishedDataIsReplacedOnlyByForce) {
  const auto large = write_file(folder_ / "large.txt", real_text(200'000));
  const auto small = write_file(folder_ / "small.txt", real_text(60'000));
  prepare(options(large, "out"));
  const auto before = files_of(folder_ / "out");
  auto again = options(small, "out");
  const auto message = message_of<UsageError>([&] { prepare(again); });
  EXPECT_TRUE(contains(message, "--force")) << message;
  EXPECT_EQ(files_of(folder_ / "out"), before);
  again.force = true;
  prepare(again);
  prepare(options(small, "fresh"));
  EXPECT_EQ(files_of(folder_ / "out"), files_of(folder_ / "fresh"));
}

TEST_F(PrepareTest, FailedReplacementLeavesTheOldData) {
  prepare(options(write_file(folder_ / "in.txt", real_text(60'000)), "out"));
  const auto before = files_of(folder_ / "out");
  auto bad = options(write_file(folder_ / "bad.jsonl", "{\"text\": \"x\"}\nnonsense\n"), "out");
  bad.force = true;
  const auto message = message_of<Error>([&] { prepare(bad); });
  EXPECT_TRUE(contains(message, "line 2 of")) << message;
  EXPECT_EQ(files_of(folder_ / "out"), before);
}

TEST_F(PrepareTest, SplitWithoutDocumentsIsRefusedWithARemedy) {
  const auto input = write_file(folder_ / "in.txt", "One short document.\n");
  auto chosen = options(input, "out");
  chosen.validation_fraction = 1e-9;
  const auto none = message_of<Error>([&] { prepare(chosen); });
  EXPECT_TRUE(contains(none, "--validation-fraction") && contains(none, "0 of 1")) << none;
  chosen.validation_fraction = 0.999999;
  const auto all = message_of<Error>([&] { prepare(chosen); });
  EXPECT_TRUE(contains(all, "--validation-fraction")) << all;
  EXPECT_FALSE(fs::exists(folder_ / "out"));
  fs::create_directory(folder_ / "out");
  EXPECT_THROW(prepare(chosen), Error);
  EXPECT_TRUE(fs::exists(folder_ / "out")) << "that was there before";
  chosen.validation_fraction = 0;
  EXPECT_EQ(prepare(chosen).index.splits.count("validation"), 0U);
}

TEST_F(PrepareTest, BadOptionsAreRefusedBeforeAnythingIsMade) {
  const auto input = write_file(folder_ / "in/in.txt", real_text(20'000));
  const auto refused = [&](const auto& change) {
    auto chosen = options(input, "out");
    change(chosen);
    const auto message = message_of<Error>([&] { prepare(chosen); });
    EXPECT_FALSE(fs::exists(folder_ / "out")) << message;
    return message;
  };
  EXPECT_TRUE(contains(refused([](auto& o) { o.inputs.clear(); }), "--input"));
  EXPECT_TRUE(contains(refused([](auto& o) { o.output.clear(); }), "--output"));
  EXPECT_TRUE(contains(refused([](auto& o) { o.tokenizer.clear(); }), "--tokenizer"));
  EXPECT_TRUE(contains(refused([](auto& o) { o.train_tokenizer = 1000; }), "either"));
  EXPECT_TRUE(contains(refused([](auto& o) { o.validation_fraction = 1; }), "fraction"));
  EXPECT_TRUE(contains(refused([](auto& o) { o.shard_tokens = 0; }), "--shard-tokens"));
  EXPECT_TRUE(contains(refused([](auto& o) { o.threads = -1; }), "--threads"));
  EXPECT_TRUE(contains(refused([](auto& o) { o.inputs = {"/no/such"}; }), "/no/such"));
  EXPECT_TRUE(contains(refused([](auto& o) { o.tokenizer = "/no/model"; }), "/no/model"));
  EXPECT_TRUE(contains(refused([&](auto& o) {
                         o.inputs = {folder_ / "in"};
                         o.output = folder_ / "in/out";
                       }),
                       "inside"));
}

TEST_F(PrepareTest, FolderThatCannotBeMadeIsNamed) {
  const auto input = write_file(folder_ / "in.txt", real_text(20'000));
  const auto message = message_of<Error>([&] { prepare(options(input, "in.txt/out")); });
  EXPECT_TRUE(contains(message, "in.txt/out")) << message;
}

// Runs `prepare` in a child, and kills it as soon as the first unfinished shard shows.
void kill_while_writing(const PrepareOptions& options) {
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    try {
      prepare(options);
    } catch (...) {
    }
    _exit(0);
  }
  while (!fs::exists(options.output / "train-00001.bin.tmp")) {
    ASSERT_EQ(waitpid(child, nullptr, WNOHANG), 0) << "it ended before it could be killed";
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
}

TEST_F(PrepareTest, KilledRunLeavesNothingThatLooksCompleteAndTheNextRunSucceeds) {
  const auto text = real_text(1'000'000);
  for (int i = 0; i < 20; ++i) write_file(folder_ / "in/" += std::to_string(i), text);
  auto chosen = options(folder_ / "in", "out");
  chosen.shard_tokens = 300'000;
  write_file(folder_ / "out/notes.tmp", "the user's own");
  kill_while_writing(chosen);
  size_t unfinished = 0;
  for (const auto& [name, bytes] : files_of(chosen.output)) {
    EXPECT_TRUE(name.ends_with(".tmp")) << name;
    ++unfinished;
  }
  EXPECT_GT(unfinished, 1U);
  const auto message = message_of<Error>([&] { DataSet::open(chosen.output, "train"); });
  EXPECT_TRUE(contains(message, "finish it")) << message;
  prepare(chosen);
  auto after = files_of(chosen.output);
  EXPECT_EQ(after.erase("notes.tmp"), 1U);
  chosen.output = folder_ / "undisturbed";
  prepare(chosen);
  EXPECT_EQ(after, files_of(chosen.output));
}

}  // namespace
}  // namespace crnet
