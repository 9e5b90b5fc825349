#include "crnet/core/file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <functional>
#include <string>

#include "crnet/core/error.h"

namespace crnet {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class FileTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(testing::TempDir()) /
              ("crnet_file_" + std::to_string(getpid()) + "_" +
               testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  fs::path folder_;
};

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST_F(FileTest, HashOfKnownTextIsThePublishedOne) {
  // XXH3 of the empty input with seed 0, from xxHash's specification.
  EXPECT_EQ(xxh3_hex(""), "2d06800538d394c2");
}

TEST_F(FileTest, AFolderHasOneHolder) {
  const auto folder = folder_ / "held" / "deep";
  {
    const auto lock = lock_folder(folder);
    EXPECT_THAT(error_of([&] { static_cast<void>(lock_folder(folder)); }),
                HasSubstr("held/deep for this process alone"));
  }
  EXPECT_EQ(error_of([&] { static_cast<void>(lock_folder(folder)); }), "no error");
  EXPECT_THAT(error_of([] { static_cast<void>(lock_folder("/proc/held")); }),
              HasSubstr("create the folder /proc/held"));
}

TEST_F(FileTest, DigestWhileWritingEqualsDigestOfTheFile) {
  std::string text(10'000'019, '\0');
  for (size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>(i * i >> 3);
  OutputFile file(folder_ / "a");
  file.write(std::string_view(text).substr(0, 12345));
  file.write(std::string_view(text).substr(12345));
  const FileDigest written = file.close();
  EXPECT_EQ(written.bytes, text.size());
  EXPECT_EQ(written.xxh3, xxh3_hex(text));
  EXPECT_EQ(digest_file(folder_ / "a"), written);
  EXPECT_EQ(copy_durably(folder_ / "a", folder_ / "b"), written);
  EXPECT_EQ(read_text(folder_ / "b"), text);
}

TEST_F(FileTest, EmptyFileHasADigest) {
  write_text_atomic(folder_ / "empty", "");
  EXPECT_EQ(digest_file(folder_ / "empty"), (FileDigest{0, xxh3_hex("")}));
  EXPECT_EQ(read_text(folder_ / "empty"), "");
}

TEST_F(FileTest, AtomicWriteReplacesAndLeavesNothingElse) {
  write_text_atomic(folder_ / "note", "old");
  write_text_atomic(folder_ / "note", "new");
  EXPECT_EQ(read_text(folder_ / "note"), "new");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), {}), 1);
}

TEST_F(FileTest, FailedAtomicWriteKeepsTheOldTextAndNamesThePath) {
  write_text_atomic(folder_ / "note", "old");
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit tight{1000, before.rlim_max};
  setrlimit(RLIMIT_FSIZE, &tight);
  const std::string message =
      error_of([&] { write_text_atomic(folder_ / "note", std::string(5000, 'x')); });
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_THAT(message, HasSubstr((folder_ / ".note.tmp").string()));
  EXPECT_THAT(message, HasSubstr("File too large"));
  EXPECT_EQ(read_text(folder_ / "note"), "old");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), {}), 1);
}

TEST_F(FileTest, MissingFileAndFolderAreNamed) {
  EXPECT_THAT(error_of([&] { (void)read_text(folder_ / "gone"); }),
              testing::AllOf(HasSubstr("gone"), HasSubstr("No such file")));
  EXPECT_THAT(error_of([&] { write_text_atomic(folder_ / "no" / "file", "x"); }),
              testing::AllOf(HasSubstr("no/.file.tmp"), HasSubstr("No such file")));
  EXPECT_THAT(error_of([&] { sync_folder(folder_ / "gone"); }), HasSubstr("gone"));
  EXPECT_THAT(error_of([&] { (void)read_text(folder_); }), HasSubstr("to be a file"));
}

TEST_F(FileTest, ReadingBeyondTheEndIsRefusedByName) {
  write_text_atomic(folder_ / "short", "12345");
  const InputFile file(folder_ / "short");
  std::string data(4, ' ');
  file.read_at(1, data.data(), 4);
  EXPECT_EQ(data, "2345");
  EXPECT_THAT(error_of([&] { file.read_at(2, data.data(), 4); }),
              testing::AllOf(HasSubstr("short"), HasSubstr("1 more bytes at 5")));
}

}  // namespace
}  // namespace crnet
