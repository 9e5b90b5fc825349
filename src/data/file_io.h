// A file that is streamed, or written and then completed at its start: what core/file.h leaves out.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace crnet {

/// An open file descriptor. Every member throws crnet::Error, naming the path and the system's
/// reason, where the system refuses.
class File {
 public:
  static File open(const std::filesystem::path& path);    ///< To read.
  static File create(const std::filesystem::path& path);  ///< To write; an old file is emptied.
  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;
  ~File();

  [[nodiscard]] size_t read(std::span<char> buffer);  ///< 0 at the end of the file.
  void write(std::string_view bytes);
  void write_at(int64_t offset, std::string_view bytes);
  void sync();  ///< Returns once the bytes are on the disk.
  [[nodiscard]] int64_t size() const;
  [[nodiscard]] int descriptor() const { return descriptor_; }
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  File(int descriptor, std::filesystem::path path);

  int descriptor_ = -1;
  std::filesystem::path path_;
};

/// `path` with ".tmp" appended: the name of a file that is still being written.
std::filesystem::path temporary_name(const std::filesystem::path& path);

}  // namespace crnet
