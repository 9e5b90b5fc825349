#include "train/profiler.h"

#include <torch/csrc/autograd/profiler_kineto.h>

#include <set>

#include "crnet/core/error.h"

namespace crnet {
namespace {

using torch::profiler::impl::ActivityType;
using torch::profiler::impl::ExperimentalConfig;
using torch::profiler::impl::ProfilerConfig;
using torch::profiler::impl::ProfilerState;

ProfilerConfig config_with(bool shapes) {
  ExperimentalConfig experimental;
  experimental.profile_all_threads = true;
  return ProfilerConfig(ProfilerState::KINETO, /*report_input_shapes=*/shapes,
                        /*profile_memory=*/false, /*with_stack=*/false, /*with_flops=*/false,
                        /*with_modules=*/false, experimental);
}

}  // namespace

Profiler::Profiler(torch::Device device, bool with_shapes) {
  std::set<ActivityType> activities = {ActivityType::CPU};
  if (device.is_cuda()) activities.insert(ActivityType::CUDA);
  const auto config = config_with(with_shapes);
  torch::autograd::profiler::prepareProfiler(config, activities);
  torch::autograd::profiler::enableProfiler(config, activities);
}

Profiler::~Profiler() {
  result();
}

torch::autograd::profiler::ProfilerResult& Profiler::result() {
  if (!result_) result_ = torch::autograd::profiler::disableProfiler();
  return *result_;
}

std::vector<RecordedRange> Profiler::stop() {
  std::vector<RecordedRange> ranges;
  std::set<std::string> on_cpu;
  for (const auto& event : result().events()) {
    const bool is_kernel = event.deviceType() != c10::DeviceType::CPU;
    if (!is_kernel) on_cpu.insert(event.name());
    ranges.push_back(
        {event.name(), event.startThreadId(), event.startNs(), event.endNs(), is_kernel});
  }
  // The device's ranges have copies of the CPU's, around the kernels that those started.
  std::erase_if(ranges, [&](const RecordedRange& range) {
    return range.is_kernel && on_cpu.contains(range.name);
  });
  return ranges;
}

void Profiler::save(const std::filesystem::path& file) {
  std::error_code failure;
  std::filesystem::remove(file, failure);
  result().save(file.string());
  if (std::filesystem::is_regular_file(file, failure)) return;
  throw Error("[profile] expected to write " + file.string() + ", got no file there");
}

}  // namespace crnet
