#include "crnet/data/text_source.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "crnet/core/error.h"
#include "data/utf8.h"
#include "test_files.h"

namespace crnet {
namespace {

using namespace test;

std::vector<std::string> documents_of(TextSource& source) {
  std::vector<std::string> documents;
  for (std::string document; source.next(document);) documents.push_back(document);
  return documents;
}

std::vector<std::string> documents_of(const fs::path& path, int64_t document_bytes = 16 << 10) {
  TextSource source({.inputs = {path}, .field = "text", .document_bytes = document_bytes});
  return documents_of(source);
}

std::string joined(const std::vector<std::string>& documents) {
  std::string text;
  for (const auto& document : documents) text += document;
  return text;
}

std::string json_line(const std::string& text) {
  return nlohmann::json{{"id", 7}, {"text", text}}.dump() + "\n";
}

TEST(TextSource, DocumentsOfAFileAreTheFileWhateverItsCompression) {
  const TempFolder folder;
  const auto text = real_text(700'000);
  const auto plain = documents_of(write_file(folder / "a.txt", text));
  EXPECT_EQ(joined(plain), text);
  EXPECT_GT(plain.size(), 20U);
  EXPECT_EQ(documents_of(write_file(folder / "a.txt.gz", gzip(text))), plain);
  EXPECT_EQ(documents_of(write_file(folder / "a.txt.zst", zstd(text))), plain);
  const auto half = text.size() / 2;
  const auto members = gzip(text.substr(0, half)) + gzip(text.substr(half));
  EXPECT_EQ(documents_of(write_file(folder / "b.gz", members)), plain);
  const auto frames = zstd(text.substr(0, half)) + zstd(text.substr(half));
  EXPECT_EQ(documents_of(write_file(folder / "b.zst", frames)), plain);
}

TEST(TextSource, JsonLinesAreOneDocumentEach) {
  const TempFolder folder;
  const std::vector<std::string> texts = {"first\nwith a newline", "caf\xC3\xA9 \xF0\x9F\xA6\x99",
                                          std::string(50'000, 'x')};
  std::string lines;
  for (const auto& text : texts) lines += json_line(text) + "\n";
  lines.pop_back();
  EXPECT_EQ(documents_of(write_file(folder / "a.jsonl", lines)), texts);
  EXPECT_EQ(documents_of(write_file(folder / "a.jsonl.gz", gzip(lines))), texts);
  EXPECT_EQ(documents_of(write_file(folder / "a.ndjson.zst", zstd(lines))), texts);
}

TEST(TextSource, LongFileIsCutAtABlankLine) {
  const TempFolder folder;
  const auto path = write_file(folder / "a.txt", "aaaa\n\nbbbbbb\n\ncccc\n");
  const std::vector<std::string> expected = {"aaaa\n\nbbbbbb\n\n", "cccc\n"};
  EXPECT_EQ(documents_of(path, 8), expected);
  EXPECT_EQ(documents_of(path, 100).size(), 1U);
}

TEST(TextSource, LongFileWithoutBlankLinesIsCutAtALineEnd) {
  const TempFolder folder;
  const auto path = write_file(folder / "a.txt", "aaaa\nbbbb\ncccc\ndddd\neeee\n");
  const std::vector<std::string> expected = {"aaaa\nbbbb\ncccc\ndddd\n", "eeee\n"};
  EXPECT_EQ(documents_of(path, 10), expected);
}

TEST(TextSource, EndlessLineIsCutWithoutCuttingACharacter) {
  const TempFolder folder;
  std::string text;
  for (int i = 0; i < 20'000; ++i) text += "\xE6\x97\xA5";
  TextSource source(
      {.inputs = {write_file(folder / "a.txt", text)}, .field = "text", .document_bytes = 1000});
  const auto documents = documents_of(source);
  EXPECT_EQ(joined(documents), text);
  EXPECT_EQ(source.num_replaced(), 0);
  for (const auto& document : documents) EXPECT_LE(document.size(), 3000U);
}

TEST(TextSource, FolderIsReadInOrderOfPaths) {
  const TempFolder folder;
  write_file(folder / "b.txt", "second");
  write_file(folder / "a/z.txt", "first");
  write_file(folder / "c/deep/er.txt", "third");
  write_file(folder / ".hidden/x.txt", "no");
  write_file(folder / "c/.hidden.txt", "no");
  const std::vector<std::string> expected = {"first", "second", "third"};
  EXPECT_EQ(documents_of(folder.path()), expected);
}

TEST(TextSource, BadJsonIsNamedWithFileAndLine) {
  const TempFolder folder;
  const auto good = json_line("good");
  const std::map<std::string, std::string> wrong = {{"not json\n", "expected a JSON object"},
                                                    {"[1, 2]\n", "expected a JSON object"},
                                                    {"{\"body\": \"x\"}\n", "--field"},
                                                    {"{\"text\": 3}\n", "number"}};
  for (const auto& [line, part] : wrong) {
    const auto path = write_file(folder / "bad.jsonl", good + "\n" + line + good);
    const auto message = message_of<Error>([&] { documents_of(path); });
    EXPECT_TRUE(contains(message, part)) << message;
    EXPECT_TRUE(contains(message, "line 3 of " + path.string())) << message;
    EXPECT_FALSE(contains(message, "\n")) << message;
  }
}

TEST(TextSource, TruncatedOrDamagedCompressionIsNamed) {
  const TempFolder folder;
  const auto text = real_text(400'000);
  for (const auto& [name, bytes] :
       std::map<std::string, std::string>{{"t.gz", gzip(text)}, {"t.zst", zstd(text)}}) {
    for (const size_t size : {bytes.size() - 1, bytes.size() / 2, size_t{3}, size_t{0}}) {
      const auto path = write_file(folder / name, bytes.substr(0, size));
      const auto message = message_of<Error>([&] { documents_of(path); });
      EXPECT_TRUE(contains(message, "truncated") && contains(message, name)) << message;
    }
    auto damaged = bytes;
    for (size_t i = bytes.size() / 2; i < bytes.size() / 2 + 40; ++i) damaged[i] ^= 0x55;
    const auto path = write_file(folder / name, damaged);
    const auto message = message_of<Error>([&] { documents_of(path); });
    EXPECT_TRUE(contains(message, name)) << message;
  }
}

TEST(TextSource, InvalidUtf8IsReplacedAndCounted) {
  const TempFolder folder;
  TextSource source({{write_file(folder / "a.txt", "ok \xFF\xC3 caf\xC3\xA9 \xED\xA0\x80.")}});
  std::string document;
  ASSERT_TRUE(source.next(document));
  const std::string bad = "\xEF\xBF\xBD";
  EXPECT_EQ(document, "ok " + bad + bad + " caf\xC3\xA9 " + bad + bad + bad + ".");
  EXPECT_EQ(source.num_replaced(), 5);
}

TEST(TextSource, FileWithNulBytesIsSkipped) {
  const TempFolder folder;
  write_file(folder / "a.png", std::string("\x89PNG\0\0", 6));
  write_file(folder / "b.txt", "\xEF\xBB\xBFtext");
  TextSource source({{folder.path()}});
  EXPECT_EQ(documents_of(source), std::vector<std::string>{"text"});
  EXPECT_EQ(source.num_skipped_files(), 1);
}

TEST(TextSource, InputWithoutFilesIsTheUsersMistake) {
  const TempFolder folder;
  EXPECT_THROW(TextSource({{folder / "missing"}}), UsageError);
  EXPECT_THROW(TextSource({{folder.path()}}), UsageError);
  EXPECT_THROW(TextSource({}), UsageError);
}

TEST(TextSource, ProgressEndsAtTheWhole) {
  const TempFolder folder;
  write_file(folder / "a.txt", real_text(50'000));
  write_file(folder / "b.gz", gzip(real_text(100'000)));
  TextSource source({{folder.path()}});
  EXPECT_EQ(source.stored_bytes_read(), 0);
  documents_of(source);
  EXPECT_EQ(source.stored_bytes_read(), source.stored_bytes());
}

TEST(Utf8, WellFormedTextIsUntouched) {
  for (const std::string text : {"", "ascii", "caf\xC3\xA9", "\xED\x9F\xBF\xEE\x80\x80",
                                 "\xF0\x90\x80\x80\xF4\x8F\xBF\xBF", "1234567\xC3\xA9"}) {
    auto copy = text;
    EXPECT_EQ(replace_invalid_utf8(copy), 0) << text;
    EXPECT_EQ(copy, text);
  }
}

TEST(Utf8, OverlongAndTruncatedSequencesAreReplaced) {
  for (const std::string text : {"\xC0\xAF", "\xE0\x80\xAF", "\xF0\x80\x80\xAF", "\xF4\x90\x80\x80",
                                 "\xE6\x97", "\x80", "12345678\xC3"}) {
    auto copy = text;
    EXPECT_GT(replace_invalid_utf8(copy), 0);
    EXPECT_EQ(replace_invalid_utf8(copy), 0) << "what replaced it is well formed";
  }
}

}  // namespace
}  // namespace crnet
