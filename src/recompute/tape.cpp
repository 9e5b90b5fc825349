#include "crnet/recompute/tape.h"

#include <utility>

#include "crnet/core/error.h"
#include "crnet/core/format.h"

namespace crnet {
namespace {

thread_local Tape* running = nullptr;

// The entry at `position`, which moves on.
template <class Entry>
Entry* take(std::deque<Entry>& entries, size_t& position, bool grows, const char* what) {
  if (grows) entries.emplace_back();
  if (position == entries.size()) {
    throw Error(
        format("[recompute] expected a block to call the %zu %s of its forward pass again, got one "
               "more",
               entries.size(), what));
  }
  return &entries[position++];
}

}  // namespace

TapeEntry* Tape::next() {
  if (running == nullptr) return nullptr;
  return take(running->entries, running->position_, running->grows_, "projections");
}

AttentionProducts* Tape::next_attention() {
  if (running == nullptr) return nullptr;
  return take(running->attentions, running->attention_position_, running->grows_, "attentions");
}

Tape::Run::Run(Tape& tape) : outer_(std::exchange(running, &tape)) {
  tape.position_ = tape.attention_position_ = 0;
  tape.grows_ = tape.entries.empty() && tape.attentions.empty();
}

Tape::Run::~Run() {
  running = outer_;
}

}  // namespace crnet
