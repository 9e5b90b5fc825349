// Detection from a map of variables.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "captured_environments.h"
#include "crnet/core/error.h"
#include "crnet/dist/launch.h"

namespace crnet {

inline Launch launch_in(const Variables& variables) {
  return detect_launch([&](const char* name) -> std::optional<std::string> {
    const auto found = variables.find(name);
    if (found == variables.end()) return std::nullopt;
    return found->second;
  });
}

/// The text of the UsageError, without the part that names the process.
inline std::string refusal_in(const Variables& variables) {
  try {
    return "no error, but " + describe(launch_in(variables));
  } catch (const UsageError& error) {
    const std::string text = error.what();
    return text.substr(0, text.rfind(" (on "));
  }
}

inline void expect_refusal(const Variables& variables, const std::string& part) {
  const std::string text = refusal_in(variables);
  EXPECT_TRUE(text.starts_with("[dist] expected ")) << text;
  EXPECT_NE(text.find(part), std::string::npos) << "expected: " << part << "\ngot: " << text;
}

}  // namespace crnet
