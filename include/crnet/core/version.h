// The version of crnet.
#pragma once

namespace crnet {

/// As in CMakeLists.txt (a test compares them).
inline constexpr const char* kVersion = "0.1.0";

}  // namespace crnet
