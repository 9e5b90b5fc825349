// Where the processes of a launch meet.
#pragma once

#include "crnet/dist/launch.h"
#include "dist/launch_variables.h"

namespace crnet {

/// Sets the rendezvous of a launch whose place is known. Throws UsageError where the variables do
/// not tell the host, or the port is none.
void set_rendezvous(const LaunchVariables& variables, Launch& launch);

}  // namespace crnet
