// What each launcher tells a process about its place. Where a launcher has started another, the
// process sees the variables of both.
#pragma once

#include <optional>

#include "crnet/dist/launch.h"
#include "dist/launch_variables.h"

namespace crnet {

/// "mpirun (Open MPI)".
const char* launcher_name(Launcher launcher);

/// Whose RANK and WORLD_SIZE these would be.
Launcher launcher_of_rank(const LaunchVariables& variables);

/// The rank and the size that this launcher gives the process. Throws UsageError where one is
/// missing or wrong; so does the next.
Launch read_rank(const LaunchVariables& variables, Launcher launcher);

/// Adds the place on this host.
void read_local_rank(const LaunchVariables& variables, Launch& launch);

/// read_rank, or none where this launcher has set nothing, or nothing that `outer`, which has
/// started it, does not say as well.
std::optional<Launch> find_rank(const LaunchVariables& variables, Launcher launcher,
                                const std::optional<Launch>& outer);

}  // namespace crnet
