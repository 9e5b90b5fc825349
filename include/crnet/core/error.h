// Errors that a person can act on.
#pragma once

#include <stdexcept>
#include <string>

namespace crnet {

/// Something outside the program is not as expected: a file, a value, a device. The text is one
/// line that says what was expected, what came, where, and what to do. The command line prints it
/// and exits with 1.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// The user's own input is wrong: an unknown key, a value out of range, a bad flag. Thrown before
/// anything is created or overwritten. The command line prints it and exits with 2.
class UsageError : public Error {
 public:
  using Error::Error;
};

}  // namespace crnet
