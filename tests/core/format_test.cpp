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

}  // namespace
}  // namespace crnet
