// The folder that prepare fills: one writer at a time, and complete or not at all.
#pragma once

#include <filesystem>
#include <set>
#include <string>

#include "crnet/core/file.h"

namespace crnet {

class OutputFolder {
 public:
  /// Makes the folder where it is missing, locks it against a second prepare, and removes what an
  /// interrupted one left. Throws UsageError where it holds a finished data set and `force` is
  /// false.
  OutputFolder(std::filesystem::path path, bool force);
  /// Takes the folder away again if it was made here and has nothing in it; folders above it stay.
  ~OutputFolder();
  OutputFolder(const OutputFolder&) = delete;
  OutputFolder& operator=(const OutputFolder&) = delete;

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

  /// Takes away the index of the data set that is about to be replaced.
  void retire_index() const;

  /// Removes shards that are not in `current`: of an earlier, larger data set.
  void remove_other_shards(const std::set<std::string>& current) const;

 private:
  std::filesystem::path path_;
  bool made_;
  detail::Descriptor lock_;
};

}  // namespace crnet
