// LibTorch's profiler (Kineto): which operator and which stage ran when, in every thread.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace torch::autograd::profiler {
struct ProfilerResult;
}

namespace crnet {

/// An operator or a stage, as it ran in a thread of the process, or a kernel on the device.
struct RecordedRange {
  std::string name;
  uint64_t thread = 0;
  uint64_t begin_ns = 0, end_ns = 0;
  bool is_kernel = false;  ///< or a copy, or a filling of memory, on the device
};

/// Records from its construction until it is stopped or gone, on CUDA the device's kernels too.
/// There may be one at a time. When it ends no other thread may be inside an operator.
class Profiler {
 public:
  /// `with_shapes`: those of the operators' inputs, in what save() writes.
  explicit Profiler(torch::Device device, bool with_shapes = false);
  ~Profiler();
  Profiler(const Profiler&) = delete;
  Profiler& operator=(const Profiler&) = delete;

  /// Stops, and gives what ran.
  [[nodiscard]] std::vector<RecordedRange> stop();
  /// Stops, and writes everything in Chrome's trace format. Throws Error where it cannot.
  void save(const std::filesystem::path& file);

 private:
  torch::autograd::profiler::ProfilerResult& result();

  std::unique_ptr<torch::autograd::profiler::ProfilerResult> result_;  // null while it records
};

}  // namespace crnet
