// The part of a run that is profiled.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "crnet/dist/group.h"
#include "train/profiler.h"

namespace crnet {

/// Records some steps of a run and writes them to trace.json in its folder, of several processes
/// each to its own trace-RANK.json.
class RunProfile {
 public:
  RunProfile(int64_t first_step, int64_t num_steps, const std::filesystem::path& folder,
             const Group& group, torch::Device device);

  /// Step `number` begins: so does the recording, if this is the first.
  void before_step(int64_t number);
  /// Whether the last of the steps is done.
  [[nodiscard]] bool ends_after(int64_t number) const { return number == first_ + num_steps_ - 1; }
  [[nodiscard]] bool is_finished() const { return is_finished_; }

  /// Ends the recording, whose last step was `last`, and writes it. Returns a line that says what
  /// came of it. Throws Error where it cannot be written.
  [[nodiscard]] std::string finish(int64_t last);

 private:
  [[nodiscard]] std::string file_name(const std::string& process) const;

  const int64_t first_, num_steps_;
  const std::filesystem::path folder_;
  const int rank_, num_processes_;
  const torch::Device device_;
  std::optional<Profiler> profiler_;  // while it records
  bool is_finished_ = false;
};

/// Throws UsageError where a run of `run_steps` steps cannot be profiled for `num_steps`; 0 is
/// none.
void check_profile(int64_t num_steps, int64_t run_steps);

}  // namespace crnet
