#include "data/output_folder.h"

#include <regex>
#include <utility>

#include "crnet/core/error.h"
#include "crnet/core/file.h"
#include "crnet/data/data_index.h"

namespace crnet {
namespace fs = std::filesystem;

namespace {

// Names that prepare gives to unfinished files, and no others: the folder may be the user's own.
bool is_unfinished(const std::string& name) {
  static const std::regex pattern(
      R"(((train|validation)-\d{5,}\.bin|\.tokenizer\.model|\.index\.json)\.tmp)");
  return std::regex_match(name, pattern);
}

bool is_shard(const std::string& name) {
  static const std::regex pattern(R"((train|validation)-\d{5,}\.bin)");
  return std::regex_match(name, pattern);
}

bool is_there(const fs::path& path) {
  std::error_code unknown;
  return fs::exists(path, unknown) || unknown;
}

template <class Predicate>
void remove_where(const fs::path& folder, const Predicate& predicate) {
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (predicate(entry.path().filename().string())) fs::remove(entry.path());
  }
}

}  // namespace

OutputFolder::OutputFolder(fs::path path, bool force)
    : path_(std::move(path)), made_(!is_there(path_)), lock_(lock_folder(path_)) {
  if (fs::exists(path_ / kIndexFile) && !force) {
    throw UsageError("[prepare] expected a new or empty output folder, got " + path_.string() +
                     ", which holds prepared data; use it, choose another, or replace it with "
                     "--force");
  }
  remove_where(path_, is_unfinished);
}

OutputFolder::~OutputFolder() {
  std::error_code not_empty;
  if (made_) fs::remove(path_, not_empty);
}

void OutputFolder::retire_index() const {
  fs::remove(path_ / kIndexFile);
  sync_folder(path_);
}

void OutputFolder::remove_other_shards(const std::set<std::string>& current) const {
  remove_where(path_,
               [&](const std::string& name) { return is_shard(name) && !current.contains(name); });
}

}  // namespace crnet
