#include "train/run_profile.h"

#include <algorithm>

#include "crnet/core/error.h"
#include "crnet/core/format.h"
#include "crnet/train/trainer.h"

namespace crnet {

RunProfile::RunProfile(int64_t first_step, int64_t num_steps, const std::filesystem::path& folder,
                       const Group& group, torch::Device device)
    : first_(first_step),
      num_steps_(num_steps),
      folder_(folder),
      rank_(group.rank()),
      num_processes_(group.size()),
      device_(device) {}

void RunProfile::before_step(int64_t number) {
  if (number == first_) profiler_.emplace(device_, /*with_shapes=*/true);
}

std::string RunProfile::file_name(const std::string& process) const {
  return num_processes_ == 1 ? "trace.json" : "trace-" + process + ".json";
}

std::string RunProfile::finish(int64_t last) {
  is_finished_ = true;
  if (!profiler_) {
    return format("no trace: this part of the run ended before step %ld",
                  static_cast<long>(first_));
  }
  const auto file = folder_ / file_name(std::to_string(rank_));
  profiler_->save(file);
  profiler_.reset();
  const std::string where = num_processes_ == 1
                                ? file.string()
                                : (folder_ / file_name("RANK")).string() + " of every process";
  return format(
      "profiled steps %ld to %ld: %s; open it at https://ui.perfetto.dev or in "
      "chrome://tracing",
      static_cast<long>(first_), static_cast<long>(last), where.c_str());
}

void check_profile(int64_t num_steps, int64_t run_steps) {
  const int64_t most = std::max<int64_t>(0, run_steps - kProfileWarmup);
  if (num_steps >= 0 && num_steps <= most) return;
  if (most == 0) {
    throw UsageError(
        format("[train] --profile: expected train.steps of more than the %ld steps that warm up, "
               "got %ld",
               static_cast<long>(kProfileWarmup), static_cast<long>(run_steps)));
  }
  throw UsageError(
      format("[train] --profile: expected 1 to %ld steps, since train.steps is %ld and the first "
             "%ld warm up, got %ld",
             static_cast<long>(most), static_cast<long>(run_steps),
             static_cast<long>(kProfileWarmup), static_cast<long>(num_steps)));
}

}  // namespace crnet
