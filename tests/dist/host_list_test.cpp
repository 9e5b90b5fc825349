#include "dist/host_list.h"

#include <gtest/gtest.h>

namespace crnet {
namespace {

TEST(HostList, TheFirstHostIsFoundInEveryFormThatSlurmWrites) {
  EXPECT_EQ(first_host("node01"), "node01");
  EXPECT_EQ(first_host("gpu3,node[01-04]"), "gpu3");
  EXPECT_EQ(first_host("node[01-04,7],gpu3"), "node01");
  EXPECT_EQ(first_host("node[7,01-04]"), "node7");
  EXPECT_EQ(first_host("n[007]"), "n007");
  EXPECT_EQ(first_host("rack[2-3]node[00-02]"), "rack2node00");
  EXPECT_EQ(first_host("node[1-2].cluster.example"), "node1.cluster.example");
}

TEST(HostList, WhatIsNoListHasNoFirstHost) {
  for (const char* text : {"", ",node01", "node[01-04", "node[]", "node01]", "[-2]"}) {
    EXPECT_EQ(first_host(text), std::nullopt) << text;
  }
}

TEST(HostList, TasksAreCountedForEachHost) {
  const auto of = [](int host) { return tasks_on_host("2(x3),1,4(x2)", host); };
  EXPECT_EQ(of(0), 2);
  EXPECT_EQ(of(2), 2);
  EXPECT_EQ(of(3), 1);
  EXPECT_EQ(of(5), 4);
  EXPECT_EQ(of(6), std::nullopt);
  EXPECT_EQ(tasks_on_host("8", 0), 8);
}

TEST(HostList, WhatIsNoListHasNoTasks) {
  for (const char* text : {"", "x", "2(x", "2(x3", "(x3)", "2(xy)", "-1", ",2", "2x"}) {
    EXPECT_EQ(tasks_on_host(text, 1), std::nullopt) << text;
  }
  EXPECT_EQ(tasks_on_host("2x,3", 0), std::nullopt);
}

}  // namespace
}  // namespace crnet
