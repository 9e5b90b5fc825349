// Threads in the place of processes, each with a group of its own.
#pragma once

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <functional>
#include <thread>
#include <vector>

#include "crnet/dist/group.h"

namespace crnet::testing {

// Below the ports that the system gives to clients: one that tries too early could meet itself.
inline int free_port() {
  static int next = 20000 + ::getpid() % 10000;
  for (;; ++next) {
    const int probe = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(next));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const bool is_free = ::bind(probe, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
    ::close(probe);
    if (is_free) return next++;
  }
}

/// Calls `work` in each; what one throws fails the test.
inline void run_processes(int count, const DistConfig& config,
                          const std::function<void(Group&)>& work) {
  Launch launch;
  launch.launcher = Launcher::kByHand;
  launch.world_size = launch.local_world_size = count;
  launch.rendezvous_host = "127.0.0.1";
  launch.rendezvous_port = free_port();
  std::vector<std::thread> threads;
  for (int rank = 0; rank < count; ++rank) {
    launch.rank = launch.local_rank = rank;
    threads.emplace_back([launch, &config, &work] {
      try {
        Group group(launch, config, torch::kCPU);
        work(group);
      } catch (const std::exception& failure) {
        ADD_FAILURE() << "process " << launch.rank << ": " << failure.what();
      }
    });
  }
  for (auto& thread : threads) thread.join();
}

}  // namespace crnet::testing
