#include "data/byte_reader.h"

#include <zlib.h>
#include <zstd.h>

#include <string>
#include <vector>

#include "crnet/core/error.h"
#include "data/file_io.h"

namespace crnet {
namespace {

constexpr size_t kBlockBytes = 256 << 10;

[[noreturn]] void fail_truncated(const File& file) {
  throw Error("[text] expected a complete compressed file, got a truncated one: " +
              file.path().string() + "; fetch or compress it again");
}

[[noreturn]] void fail_damaged(const File& file, const char* kind, const char* reason) {
  throw Error(std::string("[text] expected ") + kind + " data in " + file.path().string() +
              ", got: " + (reason != nullptr ? reason : "damaged data"));
}

class PlainReader final : public ByteReader {
 public:
  explicit PlainReader(const std::filesystem::path& path) : file_(File::open(path)) {}

  size_t read(std::span<char> buffer) override {
    const size_t got = file_.read(buffer);
    bytes_read_ += static_cast<int64_t>(got);
    return got;
  }
  int64_t stored_bytes_read() const override { return bytes_read_; }

 private:
  File file_;
  int64_t bytes_read_ = 0;
};

// The stored side of a decoder: a file read in blocks.
class Blocks {
 public:
  explicit Blocks(const std::filesystem::path& path) : file_(File::open(path)) {}

  std::span<char> next() {
    const size_t got = file_.read(buffer_);
    bytes_read_ += static_cast<int64_t>(got);
    return std::span(buffer_).first(got);
  }
  const File& file() const { return file_; }
  int64_t bytes_read() const { return bytes_read_; }

 private:
  File file_;
  std::vector<char> buffer_ = std::vector<char>(kBlockBytes);
  int64_t bytes_read_ = 0;
};

class GzipReader final : public ByteReader {
 public:
  explicit GzipReader(const std::filesystem::path& path) : blocks_(path) {
    constexpr int kGzipOnly = 15 + 16;
    if (inflateInit2(&stream_, kGzipOnly) != Z_OK) throw Error("[text] zlib could not start");
  }
  ~GzipReader() override { inflateEnd(&stream_); }
  GzipReader(const GzipReader&) = delete;
  GzipReader& operator=(const GzipReader&) = delete;

  size_t read(std::span<char> buffer) override {
    stream_.next_out = reinterpret_cast<Bytef*>(buffer.data());
    stream_.avail_out = static_cast<uInt>(buffer.size());
    while (stream_.avail_out == buffer.size()) {
      if (stream_.avail_in == 0 && !refill()) break;
      const int status = inflate(&stream_, Z_NO_FLUSH);
      if (status == Z_STREAM_END) {
        inflateReset(&stream_);  // A .gz file may be several members in a row.
        inside_member_ = stream_.avail_in > 0;
      } else if (status != Z_OK && status != Z_BUF_ERROR) {
        fail_damaged(blocks_.file(), "gzip", stream_.msg);
      }
    }
    return buffer.size() - stream_.avail_out;
  }
  int64_t stored_bytes_read() const override { return blocks_.bytes_read() - stream_.avail_in; }

 private:
  bool refill() {
    const auto block = blocks_.next();
    if (block.empty() && inside_member_) fail_truncated(blocks_.file());
    if (block.empty()) return false;
    inside_member_ = true;
    stream_.next_in = reinterpret_cast<Bytef*>(block.data());
    stream_.avail_in = static_cast<uInt>(block.size());
    return true;
  }

  Blocks blocks_;
  z_stream stream_{};
  bool inside_member_ = true;  // An empty file is a truncated one.
};

class ZstdReader final : public ByteReader {
 public:
  explicit ZstdReader(const std::filesystem::path& path) : blocks_(path) {
    constexpr int kLargestWindow = 31;  // Files made with `zstd --long=31` too.
    ZSTD_DCtx_setParameter(context_.get(), ZSTD_d_windowLogMax, kLargestWindow);
  }

  size_t read(std::span<char> buffer) override {
    ZSTD_outBuffer output{buffer.data(), buffer.size(), 0};
    while (output.pos == 0) {
      // Output that did not fit is still inside the decoder: ask before reading on.
      if (input_.pos == input_.size && !output_left_ && !refill()) break;
      const size_t status = ZSTD_decompressStream(context_.get(), &output, &input_);
      if (ZSTD_isError(status)) fail_damaged(blocks_.file(), "zstd", ZSTD_getErrorName(status));
      inside_frame_ = status != 0;
      output_left_ = output.pos == output.size;
    }
    return output.pos;
  }
  int64_t stored_bytes_read() const override {
    return blocks_.bytes_read() - static_cast<int64_t>(input_.size - input_.pos);
  }

 private:
  bool refill() {
    const auto block = blocks_.next();
    if (block.empty() && inside_frame_) fail_truncated(blocks_.file());
    input_ = {block.data(), block.size(), 0};
    return !block.empty();
  }

  Blocks blocks_;
  std::unique_ptr<ZSTD_DCtx, decltype(&ZSTD_freeDCtx)> context_{ZSTD_createDCtx(), ZSTD_freeDCtx};
  ZSTD_inBuffer input_{nullptr, 0, 0};
  bool inside_frame_ = true;
  bool output_left_ = false;
};

}  // namespace

std::unique_ptr<ByteReader> ByteReader::open(const std::filesystem::path& path) {
  if (path.extension() == ".gz") return std::make_unique<GzipReader>(path);
  if (path.extension() == ".zst") return std::make_unique<ZstdReader>(path);
  return std::make_unique<PlainReader>(path);
}

bool is_compressed(const std::filesystem::path& path) {
  return path.extension() == ".gz" || path.extension() == ".zst";
}

}  // namespace crnet
