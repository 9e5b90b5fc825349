// The formulas, by hand for networks with round numbers.
#include "train/collective_time.h"

#include <gtest/gtest.h>

namespace crnet {
namespace {

constexpr Network kNetwork{.per_node = 8,
                           .node_bandwidth = 400e9,
                           .network_bandwidth = 25e9,
                           .node_latency = 1e-6,
                           .network_latency = 10e-6};

TEST(CollectiveTime, AlonePassesNothingOn) {
  const Ring alone = Ring::of_neighbours(1, kNetwork);
  EXPECT_EQ(ring_pass(1e9, alone, kNetwork).bytes, 0);
  EXPECT_EQ(ring_pass(1e9, alone, kNetwork).seconds, 0);
  EXPECT_EQ(all_reduce(1e9, alone, kNetwork).seconds, 0);
}

TEST(CollectiveTime, InANodeEachSendsAllPartsButOne) {
  const Ring node = Ring::of_neighbours(8, kNetwork);
  const Transfer pass = ring_pass(8e9, node, kNetwork);
  EXPECT_DOUBLE_EQ(pass.bytes, 7e9);
  EXPECT_DOUBLE_EQ(pass.seconds, 7e9 / 400e9 + 7e-6);
  const Transfer sum = all_reduce(8e9, node, kNetwork);
  EXPECT_DOUBLE_EQ(sum.bytes, 2 * pass.bytes);
  EXPECT_DOUBLE_EQ(sum.seconds, 2 * pass.seconds);
}

TEST(CollectiveTime, BetweenNodesEveryProcessesOwnWayOutCarriesAPart) {
  const Ring all = Ring::of_neighbours(32, kNetwork);
  // 8 · 25 GB/s out of a node are less than 400 within; three hops of 31 leave a node.
  EXPECT_DOUBLE_EQ(ring_pass(32e9, all, kNetwork).seconds, 31e9 / 200e9 + 3 * 10e-6 + 28 * 1e-6);
}

TEST(CollectiveTime, ReplicasOfAPartMeetOverTheNetwork) {
  const Ring replicas = Ring::with_stride(4, 8, kNetwork);
  EXPECT_EQ(replicas.per_node, 1);
  EXPECT_DOUBLE_EQ(ring_pass(4e9, replicas, kNetwork).seconds, 3e9 / 25e9 + 3 * 10e-6);
  EXPECT_EQ(Ring::with_stride(8, 2, kNetwork).per_node, 4);
  EXPECT_EQ(Ring::with_stride(2, 2, kNetwork).per_node, 2) << "both in one node";
}

TEST(CollectiveTime, SumsOverManyNodesGoByATreeWhereHopsWouldMatter) {
  const Ring many = Ring::of_neighbours(1024, kNetwork);
  const double latency = 2 * (7 * 1e-6 + 7 * 10e-6);  // 2^7 nodes
  EXPECT_NEAR(all_reduce(1, many, kNetwork).seconds, latency, 1e-10);
  EXPECT_LT(2 * latency, 2 * ring_pass(1, many, kNetwork).seconds);
}

}  // namespace
}  // namespace crnet
