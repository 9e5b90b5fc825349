// The environment that tells a launched process its place: what detect_launch reads.
#pragma once

#include <string>
#include <vector>

#include "crnet/dist/launch.h"

namespace crnet {

/// 16 random hexadecimal digits, for Launch::job.
[[nodiscard]] std::string make_job_id();

/// This process's environment, as the process of that place under `crnet launch` is to see it:
/// NAME=value each.
[[nodiscard]] std::vector<std::string> launch_environment(const Launch& launch);

}  // namespace crnet
