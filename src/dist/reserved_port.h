// A port on 127.0.0.1 that nobody else is given.
#pragma once

#include "crnet/core/file.h"

namespace crnet {

/// Holds a free port while it lives. The socket is bound but does not listen, so another process
/// can listen there, if it asks with SO_REUSEADDR as c10d::TCPStore does; the system hands the
/// port to nobody. Merely to choose a port and let go would leave it to be taken before it is used.
class ReservedPort {
 public:
  ReservedPort();  ///< Throws crnet::Error where there is none.

  [[nodiscard]] int number() const { return number_; }

 private:
  detail::Descriptor socket_;
  int number_ = 0;
};

}  // namespace crnet
