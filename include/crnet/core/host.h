// The machine that this process runs on.
#pragma once

#include <string>

namespace crnet {

/// Its name, as others on the network know it; "unknown" where the system does not tell.
[[nodiscard]] std::string host_name();

}  // namespace crnet
