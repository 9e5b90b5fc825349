// Documents out of files and folders, one after the other, in constant memory.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace crnet {

/// What to read, and how it is cut into documents.
struct TextSourceOptions {
  std::vector<std::filesystem::path> inputs;  ///< Files and folders.
  std::string field = "text";                 ///< Key of the text in a line of JSONL.
  int64_t document_bytes = 16 << 10;          ///< Plain text: about where a document is cut.
};

/// Streams documents from files, in the order of `inputs`; a folder stands for every file below it,
/// sorted by path (hidden files and links to folders are left out).
///
/// A name's suffix says what a file is: `.jsonl` and `.ndjson` are one JSON object per line, with
/// the document in `field`; everything else is plain UTF-8 text. Either may be compressed, with a
/// further `.gz` or `.zst`.
///
/// A plain file is one document as long as it is short. After `document_bytes` a document ends at
/// the next blank line, or, where none comes before twice that length, at the end of a line (a
/// longer line is cut after a space). So the documents of a file put together are the file.
///
/// Bytes that are not UTF-8 are replaced by U+FFFD and counted. A file that holds NUL bytes at its
/// start is no text: it is skipped with a warning. Documents of nothing but white space are left
/// out.
///
/// Throws UsageError for an input that does not exist or holds no file, and Error, naming file and
/// line, for a line that is not JSON or lacks `field`, and for truncated or damaged compression.
class TextSource {
 public:
  explicit TextSource(TextSourceOptions options);
  ~TextSource();
  TextSource(TextSource&&) noexcept;
  TextSource& operator=(TextSource&&) noexcept;

  /// Puts the next document into `document`. False after the last.
  [[nodiscard]] bool next(std::string& document);

  [[nodiscard]] const std::vector<std::filesystem::path>& files() const { return files_; }

  /// Size of all files as stored, and how much of it has been read: for progress.
  [[nodiscard]] int64_t stored_bytes() const { return stored_bytes_; }
  [[nodiscard]] int64_t stored_bytes_read() const;

  /// stored_bytes() with four times the size of compressed files: a guess at the text's length.
  [[nodiscard]] int64_t estimated_text_bytes() const { return estimated_text_bytes_; }

  [[nodiscard]] int64_t num_replaced() const { return num_replaced_; }  ///< Bytes made U+FFFD.
  [[nodiscard]] int64_t num_skipped_files() const { return num_skipped_files_; }

 private:
  struct OpenFile;

  bool open_next();
  bool next_text(std::string& document);
  bool next_json(std::string& document);
  [[nodiscard]] std::string text_of_json(const std::string& line) const;

  TextSourceOptions options_;
  std::vector<std::filesystem::path> files_;
  size_t next_file_ = 0;
  std::unique_ptr<OpenFile> open_;
  int64_t stored_bytes_ = 0;
  int64_t estimated_text_bytes_ = 0;
  int64_t finished_bytes_ = 0;  // Stored size of the files that are behind us.
  int64_t num_replaced_ = 0;
  int64_t num_skipped_files_ = 0;
};

}  // namespace crnet
