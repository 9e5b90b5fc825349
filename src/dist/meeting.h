// Where the processes of a run meet: a key-value store, and who has come.
#pragma once

#include <torch/csrc/distributed/c10d/Store.hpp>

#include <chrono>
#include <string>
#include <vector>

#include "crnet/dist/launch.h"

namespace crnet {

using StorePtr = c10::intrusive_ptr<c10d::Store>;

/// A process as others name it.
struct Member {
  int rank = 0;
  std::string host;
  int64_t pid = 0;
};
/// "process 3 on node02".
std::string name_of(const Member& member);

/// The processes of a run, once all have come.
struct Meeting {
  StorePtr store;               ///< with keys of this run and attempt alone
  std::vector<Member> members;  ///< by rank
};

/// Serves the store, or connects to it, and waits until all are there. Throws Error after
/// `patience` at most, with the launch's rendezvous and who is missing.
Meeting meet(const Launch& launch, std::chrono::seconds patience);

std::vector<uint8_t> to_bytes(const std::string& text);
std::string to_text(const std::vector<uint8_t>& bytes);

}  // namespace crnet
