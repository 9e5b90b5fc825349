#include "crnet/core/format.h"

#include <gtest/gtest.h>

namespace crnet {
namespace {

TEST(ShellWord, IsQuotedWhereAShellWouldTakeItApart) {
  EXPECT_EQ(shell_word("build/release/crnet"), "build/release/crnet");
  EXPECT_EQ(shell_word("runs/my run"), "'runs/my run'");
  EXPECT_EQ(shell_word("it's $HOME"), "'it'\\''s $HOME'");
  EXPECT_EQ(shell_word(""), "''");
}

TEST(NearestMatch, IsTheOneOfLeastEditDistance) {
  EXPECT_EQ(nearest_match("stepz", {"seed", "steps", "step_time"}), "steps");
  EXPECT_EQ(nearest_match("fp3", {"fp32", "bf16"}), "fp32");
  EXPECT_EQ(nearest_match("steps", {"model", "optimizer"}), "");
}

TEST(NearestMatch, IsNoneWhereTwoAreEquallyNear) {
  EXPECT_EQ(nearest_match("fp16", {"fp32", "bf16"}), "");
  EXPECT_EQ(nearest_match("fp16", {"bf16", "fp32", "fp8", "fp166"}), "fp166");
  EXPECT_EQ(nearest_match("stepz", {"steps", "steps"}), "steps");
}

}  // namespace
}  // namespace crnet
