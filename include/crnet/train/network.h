// The links between the processes of a run, and how long they take for what processes share.
#pragma once

#include <cstdint>

namespace crnet {

/// Bandwidths are those of one process, in each direction. The defaults are those of nodes with
/// eight H100 or H200, and a 400 Gb/s adapter for each (docs/scaling.md).
struct Network {
  int64_t per_node = 8;           ///< processes of a node
  double node_bandwidth = 450e9;  ///< bytes/s between processes of a node
  double network_bandwidth = 50e9;
  double node_latency = 3.4e-6;  ///< seconds for each hop between processes of a node
  double network_latency = 14e-6;
};

}  // namespace crnet
