// Text, folders and compressed files for the tests of the data layer.
#pragma once

#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "crnet/data/data_index.h"
#include "crnet/data/shard.h"
#include "crnet/data/tokenizer.h"

namespace crnet::test {

namespace fs = std::filesystem;

/// An empty folder that goes with the test.
class TempFolder {
 public:
  TempFolder() {
    std::string pattern = (fs::temp_directory_path() / "crnet-test-XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp failed");
    path_ = pattern;
  }
  ~TempFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;

  [[nodiscard]] fs::path operator/(const std::string& name) const { return path_ / name; }
  [[nodiscard]] const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

inline fs::path write_file(const fs::path& path, const std::string& bytes) {
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << bytes;
  return path;
}

inline std::string read_all(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline std::string gzip(const std::string& bytes) {
  std::string out(compressBound(bytes.size()) + 64, '\0');
  z_stream stream{};
  deflateInit2(&stream, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
  stream.avail_in = static_cast<uInt>(bytes.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  deflate(&stream, Z_FINISH);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

inline std::string zstd(const std::string& bytes) {
  std::string out(ZSTD_compressBound(bytes.size()), '\0');
  out.resize(ZSTD_compress(out.data(), out.size(), bytes.data(), bytes.size(), 3));
  return out;
}

/// Paragraphs of varied English-like text with code, indentation, digits and some Unicode.
inline std::string sample_text(int paragraphs, unsigned seed = 1) {
  static const char* const words[] = {
      "the",     "of",       "and",     "function",    "returns",
      "value",   "list",     "when",    "operator",    "string",
      "if",      "matching", "pattern", "module",      "called",
      "with",    "scalar",   "number",  "caf\xC3\xA9", "\xE2\x80\x9Cquoted\xE2\x80\x9D",
      "file",    "handle",   "input",   "output",      "each",
      "element", "array",    "context", "example",     "reads",
      "writes",  "memory"};
  std::string text;
  unsigned state = seed * 2654435761U + 1;
  const auto draw = [&](unsigned n) {
    state = state * 1664525U + 1013904223U;
    return (state >> 8) % n;
  };
  for (int p = 0; p < paragraphs; ++p) {
    if (draw(5) == 0) {
      text += "    my $x" + std::to_string(draw(1000)) + "  =  f($y);\n\tprint \"ok\";\n\n";
      continue;
    }
    for (unsigned n = 20 + draw(60), i = 0; i < n; ++i) {
      text += words[draw(std::size(words))];
      text += i + 1 == n ? ".\n\n" : draw(12) == 0 ? "\n" : draw(9) == 0 ? ", " : " ";
    }
  }
  return text;
}

/// Perl's documentation where it is installed, else sample_text: at most `bytes` of it.
inline std::string real_text(size_t bytes) {
  std::string text;
  std::error_code ignored;
  for (const auto& version : fs::directory_iterator("/usr/share/perl", ignored)) {
    for (const char* page : {"perlop.pod", "perlfunc.pod", "perluniintro.pod", "perlre.pod"}) {
      if (text.size() < bytes) text += read_all(version.path() / "pod" / page);
    }
  }
  if (text.empty()) text = sample_text(static_cast<int>(bytes / 200));
  if (text.size() <= bytes) return text;
  return text.substr(0, text.rfind('\n', bytes) + 1);
}

/// A small tokenizer, trained on real_text.
inline const Tokenizer& small_tokenizer() {
  static const Tokenizer tokenizer = [] {
    bool handed_out = false;
    return train_tokenizer({.vocab_size = 1000}, [&](std::string& document) {
      document = real_text(300'000);
      return !std::exchange(handed_out, true);
    });
  }();
  return tokenizer;
}

/// What `action` throws, as text; "" where it throws nothing.
template <class Exception, class Action>
std::string message_of(const Action& action) {
  try {
    action();
  } catch (const Exception& failure) {
    return failure.what();
  }
  return "";
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

/// Every file of a folder, by name.
inline std::map<std::string, std::string> files_of(const fs::path& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::directory_iterator(folder)) {
    files[entry.path().filename().string()] = read_all(entry.path());
  }
  return files;
}

inline constexpr const char* kTestHash = "00112233445566aa";

/// A data set whose tokens count up from 0 through all its shards.
inline void write_counting_data(const fs::path& folder, const std::vector<int64_t>& shard_tokens,
                                int32_t vocab_size = 60000) {
  DataIndex index{.tokenizer_hash = kTestHash,
                  .vocab_size = vocab_size,
                  .eos_id = 2,
                  .options = {},
                  .splits = {}};
  auto& split = index.splits["train"];
  int32_t next = 0;
  for (const int64_t count : shard_tokens) {
    char name[32];
    std::snprintf(name, sizeof name, "train-%05zu.bin", split.shards.size());
    ShardWriter writer(folder / name, vocab_size, kTestHash);
    std::vector<int32_t> tokens(static_cast<size_t>(count));
    for (auto& token : tokens) token = next++;
    writer.write(tokens);
    const auto header = writer.finish();
    writer.publish();
    char checksum[17];
    std::snprintf(checksum, sizeof checksum, "%016llx",
                  static_cast<unsigned long long>(header.checksum));
    split.shards.push_back({name, count, checksum});
    split.tokens += count;
  }
  index.save(folder);
}

}  // namespace crnet::test
