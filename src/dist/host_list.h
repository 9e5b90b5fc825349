// Slurm's short forms of the hosts of a step and of their tasks.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace crnet {

/// The first host of a list: "rack[2-3]node[01-04,7],gpu3" → "rack2node01". None where the text is
/// no such list.
std::optional<std::string> first_host(std::string_view hosts);

/// The tasks on the host of that index, from 0: ("2(x3),1", 3) → 1. None where the text is no such
/// list or has no such host.
std::optional<int> tasks_on_host(std::string_view tasks, int host);

}  // namespace crnet
