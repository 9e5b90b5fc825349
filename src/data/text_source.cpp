#include "crnet/data/text_source.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "crnet/core/error.h"
#include "crnet/core/format.h"
#include "crnet/core/log.h"
#include "data/line_reader.h"
#include "data/utf8.h"

namespace crnet {
namespace fs = std::filesystem;

namespace {

constexpr size_t kMaxJsonLine = 256 << 20;
constexpr const char* kWhiteSpace = " \t\r\n\v\f";

bool is_blank(std::string_view text) {
  return text.find_first_not_of(kWhiteSpace) == std::string_view::npos;
}

bool is_json_lines(const fs::path& path) {
  const auto name = is_compressed(path) ? path.stem() : path;
  return name.extension() == ".jsonl" || name.extension() == ".ndjson";
}

void append_folder(const fs::path& folder, std::vector<fs::path>& files) {
  std::vector<fs::path> found;
  for (auto entry = fs::recursive_directory_iterator(folder); entry != fs::end(entry); ++entry) {
    const bool hidden = entry->path().filename().string().starts_with(".");
    if (hidden && entry->is_directory()) entry.disable_recursion_pending();
    if (!hidden && entry->is_regular_file()) found.push_back(entry->path());
  }
  if (found.empty()) {
    throw UsageError("[text] expected files in the folder " + folder.string() + ", got none");
  }
  std::sort(found.begin(), found.end());
  files.insert(files.end(), found.begin(), found.end());
}

std::vector<fs::path> list_files(const std::vector<fs::path>& inputs) {
  if (inputs.empty()) throw UsageError("[text] expected at least one input file or folder");
  std::vector<fs::path> files;
  for (const auto& input : inputs) {
    std::error_code failure;
    const auto status = fs::status(input, failure);
    if (!fs::exists(status)) {
      throw UsageError("[text] expected a file or folder, got " + input.string() +
                       ", which does not exist");
    }
    try {
      if (fs::is_directory(status)) {
        append_folder(input, files);
      } else {
        files.push_back(input);
      }
    } catch (const fs::filesystem_error& refusal) {
      throw Error("[text] expected to list " + input.string() +
                  ", got: " + refusal.code().message());
    }
  }
  return files;
}

// Pipes and devices have no size: they count as nothing in the progress.
int64_t stored_size(const fs::path& path) {
  std::error_code failure;
  const auto size = fs::file_size(path, failure);
  return failure ? 0 : static_cast<int64_t>(size);
}

std::string keys_of(const nlohmann::json& object) {
  constexpr size_t kMostKeys = 8;
  std::string keys;
  size_t count = 0;
  for (const auto& item : object.items()) {
    if (count++ == kMostKeys) return keys + ", …";
    keys += (keys.empty() ? "" : ", ") + item.key();
  }
  return keys.empty() ? "none" : keys;
}

}  // namespace

struct TextSource::OpenFile {
  fs::path path;
  bool json;
  int64_t stored_size;
  LineReader lines;
  int64_t line_number = 0;
};

TextSource::TextSource(TextSourceOptions options)
    : options_(std::move(options)), files_(list_files(options_.inputs)) {
  constexpr int64_t kUsualRatio = 4;  // Of English text under gzip and Zstandard: 3 to 4.
  for (const auto& file : files_) {
    const int64_t size = stored_size(file);
    stored_bytes_ += size;
    estimated_text_bytes_ += is_compressed(file) ? kUsualRatio * size : size;
  }
}

TextSource::~TextSource() = default;
TextSource::TextSource(TextSource&&) noexcept = default;
TextSource& TextSource::operator=(TextSource&&) noexcept = default;

bool TextSource::next(std::string& document) {
  while (open_ != nullptr || open_next()) {
    while (open_->json ? next_json(document) : next_text(document)) {
      if (!is_blank(document)) return true;
    }
    finished_bytes_ += open_->stored_size;
    open_.reset();
  }
  return false;
}

int64_t TextSource::stored_bytes_read() const {
  return finished_bytes_ + (open_ != nullptr ? open_->lines.stored_bytes_read() : 0);
}

bool TextSource::open_next() {
  while (next_file_ < files_.size()) {
    const auto& path = files_[next_file_++];
    const bool json = is_json_lines(path);
    const size_t max_line = json ? kMaxJsonLine : static_cast<size_t>(options_.document_bytes);
    LineReader lines(ByteReader::open(path), max_line);
    if (!lines.starts_binary()) {
      lines.skip_byte_order_mark();
      open_ = std::make_unique<OpenFile>(OpenFile{path, json, stored_size(path), std::move(lines)});
      return true;
    }
    log::warn("[text] skipped " + path.string() + ": it holds NUL bytes, so it is no UTF-8 text");
    finished_bytes_ += stored_size(path);
    ++num_skipped_files_;
  }
  return false;
}

bool TextSource::next_text(std::string& document) {
  const auto bound = static_cast<size_t>(options_.document_bytes);
  document.clear();
  std::string_view line;
  while (open_->lines.next(line)) {
    document += line;
    if (document.size() >= 2 * bound || (document.size() >= bound && is_blank(line))) break;
  }
  num_replaced_ += replace_invalid_utf8(document);
  return !document.empty();
}

bool TextSource::next_json(std::string& document) {
  std::string_view view;
  while (open_->lines.next(view)) {
    ++open_->line_number;
    if (is_blank(view)) continue;
    std::string line(view);
    num_replaced_ += replace_invalid_utf8(line);
    document = text_of_json(line);
    return true;
  }
  return false;
}

std::string TextSource::text_of_json(const std::string& line) const {
  const std::string where =
      format("line %ld of %s", static_cast<long>(open_->line_number), open_->path.string().c_str());
  if (line.size() >= kMaxJsonLine) {
    throw Error("[text] expected lines below 256 MiB, got a longer one: " + where);
  }
  auto object = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) {
    constexpr size_t kShown = 40;
    std::string shown = line.substr(0, utf8_boundary(line, kShown));
    shown.erase(std::find(shown.begin(), shown.end(), '\n'), shown.end());
    throw Error("[text] expected a JSON object, got '" + shown + "': " + where);
  }
  const auto text = object.find(options_.field);
  if (text == object.end()) {
    throw Error("[text] expected the field '" + options_.field + "', got the fields " +
                keys_of(object) + ": " + where + "; name the text's field with --field");
  }
  if (!text->is_string()) {
    throw Error("[text] expected text in the field '" + options_.field + "', got " +
                text->type_name() + ": " + where);
  }
  return std::move(text->get_ref<std::string&>());
}

}  // namespace crnet
