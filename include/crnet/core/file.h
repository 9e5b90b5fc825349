// Files that survive a crash: complete or absent, on the disk, and hashed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

// Every function throws crnet::Error that names the path and the system's reason.
namespace crnet {

/// What a file holds, in short.
struct FileDigest {
  uint64_t bytes = 0;
  std::string xxh3;  ///< XXH3 of 64 bits with seed 0, 16 lower-case hexadecimal digits.

  bool operator==(const FileDigest&) const = default;
};

namespace detail {

/// An open file of the system; closes itself.
class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int number) : number_(number) {}
  Descriptor(Descriptor&& other) noexcept : number_(other.release()) {}
  Descriptor& operator=(Descriptor&& other) noexcept;
  ~Descriptor();

  [[nodiscard]] int get() const { return number_; }
  int release() noexcept;

 private:
  int number_ = -1;
};

}  // namespace detail

/// A new file that is written from front to back, unbuffered: hand it large pieces.
class OutputFile {
 public:
  /// Creates the file, or empties it.
  explicit OutputFile(std::filesystem::path path);
  ~OutputFile();  ///< Closes; without close() before, nothing is promised about the contents.
  OutputFile(OutputFile&&) noexcept;
  OutputFile& operator=(OutputFile&&) noexcept;

  void write(const void* data, size_t bytes);
  void write(std::string_view text) { write(text.data(), text.size()); }

  /// Flushes to the disk, closes, and returns the digest of what was handed over, which is what
  /// the file should hold for ever.
  FileDigest close();

 private:
  struct Hasher;
  std::filesystem::path path_;
  detail::Descriptor file_;
  std::unique_ptr<Hasher> hasher_;
  uint64_t bytes_ = 0;
};

/// A file that is read at any place, by any number of threads.
class InputFile {
 public:
  explicit InputFile(std::filesystem::path path);

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  [[nodiscard]] uint64_t size() const { return size_; }  ///< In bytes, when it was opened.

  /// Fills `data` with `bytes` bytes from `offset` on; fewer in the file is an error.
  void read_at(uint64_t offset, void* data, size_t bytes) const;

 private:
  std::filesystem::path path_;
  detail::Descriptor file_;
  uint64_t size_ = 0;
};

/// Creates the folder where it is missing and holds it for this process, until the result goes or
/// the process ends, however it ends. Another process that holds it is an error.
[[nodiscard]] detail::Descriptor lock_folder(const std::filesystem::path& folder);

/// Flushes a folder's entries, so that files created in it, or renamed into it, stay there.
void sync_folder(const std::filesystem::path& folder);

/// Renames within one file system, replacing a file, and flushes the target's folder.
void rename_durably(const std::filesystem::path& from, const std::filesystem::path& to);

/// A reader, or a crash, sees the old text or the new one, never a part. One writer at a time: it
/// goes through `.<name>.tmp` in the same folder.
void write_text_atomic(const std::filesystem::path& path, std::string_view text);

/// The whole file.
[[nodiscard]] std::string read_text(const std::filesystem::path& path);

/// Copies and flushes a file; returns the digest of what was read.
FileDigest copy_durably(const std::filesystem::path& from, const std::filesystem::path& to);

/// Reads the file once, in pieces.
[[nodiscard]] FileDigest digest_file(const std::filesystem::path& path);

/// The hash of FileDigest, of bytes in memory.
[[nodiscard]] std::string xxh3_hex(std::string_view bytes);

}  // namespace crnet
