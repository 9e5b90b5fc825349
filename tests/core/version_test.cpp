#include "crnet/core/version.h"

#include <gtest/gtest.h>

#include <string>

#include "crnet/core/file.h"

namespace crnet {
namespace {

TEST(Version, IsThatOfTheBuild) {
  const std::string build = read_text(CRNET_SOURCE_DIR "/CMakeLists.txt");
  EXPECT_NE(build.find("project(crnet VERSION " + std::string(kVersion) + " "), std::string::npos);
}

}  // namespace
}  // namespace crnet
