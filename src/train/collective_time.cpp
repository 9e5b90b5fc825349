#include "train/collective_time.h"

#include <algorithm>
#include <cmath>

namespace crnet {
namespace {

int64_t num_nodes(const Ring& ring) {
  return (ring.size + ring.per_node - 1) / ring.per_node;
}

// Of the slowest link. Each process of a node has its own way out, which carries a part.
double bandwidth(const Ring& ring, const Network& network) {
  if (num_nodes(ring) == 1) return network.node_bandwidth;
  const double out = static_cast<double>(ring.per_node) * network.network_bandwidth;
  return ring.per_node == 1 ? out : std::min(network.node_bandwidth, out);
}

double share_of_others(const Ring& ring) {
  return static_cast<double>(ring.size - 1) / static_cast<double>(ring.size);
}

// From one process to all others in a row.
double ring_latency(const Ring& ring, const Network& network) {
  const int64_t between_nodes = num_nodes(ring) - 1;
  return static_cast<double>(between_nodes) * network.network_latency +
         static_cast<double>(ring.size - 1 - between_nodes) * network.node_latency;
}

double tree_latency(const Ring& ring, const Network& network) {
  return static_cast<double>(ring.per_node - 1) * network.node_latency +
         std::ceil(std::log2(static_cast<double>(num_nodes(ring)))) * network.network_latency;
}

}  // namespace

Ring Ring::of_neighbours(int64_t size, const Network& network) {
  return {size, std::min(size, network.per_node)};
}

Ring Ring::with_stride(int64_t size, int64_t stride, const Network& network) {
  return {size, std::clamp<int64_t>(network.per_node / stride, 1, size)};
}

Transfer ring_pass(double bytes, const Ring& ring, const Network& network) {
  if (ring.size == 1) return {};
  const double sent = share_of_others(ring) * bytes;
  return {sent, ring_latency(ring, network) + sent / bandwidth(ring, network)};
}

Transfer all_reduce(double bytes, const Ring& ring, const Network& network) {
  if (ring.size == 1) return {};
  const double sent = 2 * share_of_others(ring) * bytes;
  const double latency = std::min(ring_latency(ring, network), tree_latency(ring, network));
  return {sent, 2 * latency + sent / bandwidth(ring, network)};
}

}  // namespace crnet
