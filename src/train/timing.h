// How long things take, and what several takes say.
#pragma once

#include <torch/types.h>

#include <functional>
#include <vector>

namespace crnet {

/// How long `work` takes, until the device is done with it.
double milliseconds(torch::Device device, const std::function<void()>& work);

/// 0 of none.
double median(std::vector<double> values);

}  // namespace crnet
