#include "dist/reserved_port.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

namespace crnet {
namespace {

detail::Descriptor new_socket(int reuse) {
  detail::Descriptor made(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  setsockopt(made.get(), SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof(reuse));
  return made;
}

template <class Call>
bool works(Call call, const detail::Descriptor& descriptor, in_addr_t host, int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(host);
  address.sin_port = htons(static_cast<uint16_t>(port));
  return call(descriptor.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
}

TEST(ReservedPort, IsThereForAServerThatReusesIt) {
  const ReservedPort port;
  const auto server = new_socket(1), client = new_socket(0);
  ASSERT_TRUE(works(bind, server, INADDR_ANY, port.number()));
  ASSERT_EQ(listen(server.get(), 1), 0);
  EXPECT_TRUE(works(connect, client, INADDR_LOOPBACK, port.number()));
}

TEST(ReservedPort, IsRefusedToOneThatDoesNot) {
  const ReservedPort port;
  EXPECT_FALSE(works(bind, new_socket(0), INADDR_LOOPBACK, port.number()));
}

TEST(ReservedPort, TwoAreDifferent) {
  const ReservedPort one, other;
  EXPECT_NE(one.number(), other.number());
}

}  // namespace
}  // namespace crnet
