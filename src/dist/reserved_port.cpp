#include "dist/reserved_port.h"

#include <netinet/in.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>

#include "crnet/core/error.h"
#include "crnet/core/format.h"

namespace crnet {

ReservedPort::ReservedPort() : socket_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  auto* const general = reinterpret_cast<sockaddr*>(&address);
  socklen_t size = sizeof(address);
  const int reuse = 1;
  if (setsockopt(socket_.get(), SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof(reuse)) != 0 ||
      bind(socket_.get(), general, size) != 0 || getsockname(socket_.get(), general, &size) != 0) {
    throw Error(
        format("[launch] expected a free port on 127.0.0.1, got: %s", std::strerror(errno)));
  }
  number_ = ntohs(address.sin_port);
}

}  // namespace crnet
