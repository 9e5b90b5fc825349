#include "train/timing.h"

#include <torch/cuda.h>

#include <algorithm>
#include <chrono>

namespace crnet {

double milliseconds(torch::Device device, const std::function<void()>& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  if (device.is_cuda()) torch::cuda::synchronize();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin)
      .count();
}

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

}  // namespace crnet
