#include "crnet/recompute/tape.h"

#include <utility>

#include "crnet/core/error.h"
#include "crnet/core/format.h"

namespace crnet {
namespace {

thread_local Tape* running = nullptr;

}  // namespace

TapeEntry* Tape::next() {
  if (running == nullptr) return nullptr;
  Tape& tape = *running;
  if (tape.grows_) tape.entries.emplace_back();
  if (tape.position_ == tape.entries.size()) {
    throw Error(format(
        "[recompute] expected a block to call the %zu projections of its forward pass again, "
        "got one more",
        tape.entries.size()));
  }
  return &tape.entries[tape.position_++];
}

Tape::Run::Run(Tape& tape) : outer_(std::exchange(running, &tape)) {
  tape.position_ = 0;
  tape.grows_ = tape.entries.empty();
}

Tape::Run::~Run() {
  running = outer_;
}

}  // namespace crnet
