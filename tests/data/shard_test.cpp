#include "crnet/data/shard.h"

#include <gtest/gtest.h>

#include "crnet/core/error.h"
#include "crnet/data/dataset.h"
#include "data/file_io.h"
#include "test_files.h"

namespace crnet {
namespace {

using namespace test;

fs::path write_shard(const fs::path& path, const std::vector<int32_t>& tokens,
                     int64_t vocab_size = 60000) {
  ShardWriter writer(path, vocab_size, kTestHash);
  writer.write(tokens);
  writer.finish();
  writer.publish();
  return path;
}

std::string refusal(const fs::path& path) {
  return message_of<Error>([&] { Shard::open(path).verify(); });
}

TEST(Shard, TokensComeBackInBothWidths) {
  const TempFolder folder;
  for (const int64_t vocab_size : {65536, 65537}) {
    const std::vector<int32_t> tokens = {0, 1, 65535, 77, 3};
    const auto shard = Shard::open(write_shard(folder / "s.bin", tokens, vocab_size));
    EXPECT_EQ(shard.header().bytes_per_token, vocab_size == 65536 ? 2 : 4);
    EXPECT_EQ(shard.header().tokenizer_hash, kTestHash);
    EXPECT_EQ(shard.header().vocab_size, vocab_size);
    std::vector<int64_t> out(3);
    shard.read(1, out);
    EXPECT_EQ(out, (std::vector<int64_t>{1, 65535, 77}));
    EXPECT_NO_THROW(shard.verify());
    EXPECT_THROW(shard.read(3, out), Error);
    EXPECT_THROW(shard.read(-1, out), Error);
  }
}

TEST(Shard, UnpublishedShardHasOnlyItsTemporaryName) {
  const TempFolder folder;
  const auto path = folder / "s.bin";
  {
    ShardWriter writer(path, 100, kTestHash);
    writer.write(std::vector<int32_t>{1, 2, 3});
    EXPECT_TRUE(contains(refusal(path.string() + ".tmp"), "not finished"));
    writer.finish();
    EXPECT_FALSE(fs::exists(path));
  }
  EXPECT_TRUE(fs::is_empty(folder.path()));
}

TEST(Shard, IdOutsideTheVocabularyIsRefused) {
  const TempFolder folder;
  ShardWriter writer(folder / "s.bin", 100, kTestHash);
  EXPECT_THROW(writer.write(std::vector<int32_t>{5, 100}), Error);
  EXPECT_THROW(writer.write(std::vector<int32_t>{-1}), Error);
}

TEST(Shard, TruncatedFileIsRefusedByName) {
  const TempFolder folder;
  const auto bytes = read_all(write_shard(folder / "s.bin", {1, 2, 3, 4}));
  for (const size_t size : {bytes.size() - 1, bytes.size() - 8, size_t{4000}, size_t{0}}) {
    const auto message = refusal(write_file(folder / "cut.bin", bytes.substr(0, size)));
    EXPECT_TRUE(contains(message, "cut.bin") && contains(message, "truncated")) << message;
  }
  const auto longer = refusal(write_file(folder / "long.bin", bytes + "x"));
  EXPECT_TRUE(contains(longer, "long.bin") && contains(longer, "too long")) << longer;
}

TEST(Shard, EveryChangedByteOfHeaderOrTokensIsNoticed) {
  const TempFolder folder;
  const auto bytes = read_all(write_shard(folder / "s.bin", {1, 2, 3, 4}));
  for (size_t i = 0; i < bytes.size(); i = i == 63 ? 4096 : i + 1) {
    auto changed = bytes;
    changed[i] ^= 0x10;
    const auto message = refusal(write_file(folder / "changed.bin", changed));
    EXPECT_TRUE(contains(message, "changed.bin")) << "byte " << i << ": " << message;
  }
}

TEST(Shard, FullDiskIsAnErrorThatNamesTheFile) {
  auto file = File::create("/dev/full");
  const auto message = message_of<Error>([&] { file.write("x"); });
  EXPECT_TRUE(contains(message, "/dev/full") && contains(message, "free some space")) << message;
}

TEST(DataSet, ShardOfAnotherTokenizerIsRefusedByName) {
  const TempFolder folder;
  write_counting_data(folder.path(), {50, 50});
  ShardWriter other(folder / "train-00001.bin", 60000, "ffffffffffffffff");
  other.write(std::vector<int32_t>(50));
  other.finish();
  other.publish();
  const auto message = message_of<Error>([&] { DataSet::open(folder.path(), "train"); });
  EXPECT_TRUE(contains(message, "train-00001.bin") && contains(message, "tokenizer")) << message;
}

TEST(DataSet, ExpectationsOfTheModelAreChecked) {
  const TempFolder folder;
  write_counting_data(folder.path(), {50});
  const auto open = [&](const DataSetChecks& checks) {
    return message_of<Error>([&] { DataSet::open(folder.path(), "train", checks); });
  };
  EXPECT_EQ(open({.verify = true, .tokenizer_hash = kTestHash, .vocab_size = 60000}), "");
  EXPECT_TRUE(contains(open({.tokenizer_hash = "1111111111111111"}), folder.path().string()));
  EXPECT_TRUE(contains(open({.vocab_size = 32000}), "32000"));
}

TEST(DataSet, DamagedShardIsFoundByVerifying) {
  const TempFolder folder;
  write_counting_data(folder.path(), {50, 50});
  auto bytes = read_all(folder / "train-00001.bin");
  bytes[4100] ^= 1;
  write_file(folder / "train-00001.bin", bytes);
  EXPECT_NO_THROW(DataSet::open(folder.path(), "train"));
  const auto message =
      message_of<Error>([&] { DataSet::open(folder.path(), "train", {.verify = true}); });
  EXPECT_TRUE(contains(message, "train-00001.bin") && contains(message, "damaged")) << message;
}

TEST(DataSet, ShardThatIsNotTheIndexsIsRefused) {
  const TempFolder folder;
  write_counting_data(folder.path(), {50});
  write_shard(folder / "train-00000.bin", std::vector<int32_t>(50, 1));
  const auto message = message_of<Error>([&] { DataSet::open(folder.path(), "train"); });
  EXPECT_TRUE(contains(message, "train-00000.bin")) << message;
}

TEST(DataSet, MissingPiecesAreNamed) {
  const TempFolder folder;
  const auto none = message_of<Error>([&] { DataSet::open(folder.path(), "train"); });
  EXPECT_TRUE(contains(none, "crnet prepare")) << none;
  write_counting_data(folder.path(), {50});
  const auto split = message_of<Error>([&] { DataSet::open(folder.path(), "test"); });
  EXPECT_TRUE(contains(split, "'test'") && contains(split, "train")) << split;
  fs::remove(folder / "train-00000.bin");
  const auto shard = message_of<Error>([&] { DataSet::open(folder.path(), "train"); });
  EXPECT_TRUE(contains(shard, "train-00000.bin")) << shard;
  for (const std::string content : {"", "{}", "not json", "{\"format\": 3}"}) {
    write_file(folder / "index.json", content);
    const auto message = message_of<Error>([&] { DataSet::open(folder.path(), "train"); });
    EXPECT_TRUE(contains(message, "index.json")) << message;
  }
}

}  // namespace
}  // namespace crnet
