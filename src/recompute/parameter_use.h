// A block's parameters while they are in use.
#pragma once

#include "crnet/recompute/block_stack.h"

namespace crnet {

/// For as long as it lives; does nothing where `use` is null.
class InUse {
 public:
  InUse(ParameterUsePtr use, size_t block, bool forward) : use_(std::move(use)), block_(block) {
    if (use_) use_->before(block_, forward);
  }
  ~InUse() {
    if (use_) use_->after(block_);
  }
  InUse(const InUse&) = delete;
  InUse& operator=(const InUse&) = delete;

 private:
  const ParameterUsePtr use_;
  const size_t block_;
};

/// Calls a block, which gets a graph of its own; its parameters are in use now, and again in the
/// backward pass from when the gradients of its results come until those of its inputs have gone.
BlockState call_with_graph(const StackBlock& block, size_t index, const BlockState& below,
                           const ParameterUsePtr& use);

}  // namespace crnet
