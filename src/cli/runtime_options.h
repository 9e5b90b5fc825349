// --device, --precision and --threads of eval and generate.
#pragma once

#include <cxxopts.hpp>

#include "crnet/train/device.h"

namespace crnet {

/// The runtime that the options of add_runtime_options() ask for.
Runtime runtime_from(const cxxopts::ParseResult& parsed);

}  // namespace crnet
