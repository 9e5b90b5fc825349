// Gradients averaged over the processes of a run while the backward pass goes on.
#pragma once

#include <torch/types.h>

#include <memory>
#include <string>
#include <vector>

#include "crnet/dist/config.h"
#include "crnet/dist/group.h"

namespace crnet {

/// Data parallelism by c10d::Reducer: a bucket of gradients is averaged as soon as the backward
/// pass has made its last one, block by block under every strategy of recomputation as well.
/// Gradients become views of the buckets. Does nothing in a group of one process.
class DataParallel {
 public:
  /// `parameters` in the order of the forward pass; every one must get a gradient in every backward
  /// pass. `group` must outlive it.
  DataParallel(Group& group, const std::vector<torch::Tensor>& parameters,
               const DistConfig& config);
  ~DataParallel();
  DataParallel(const DataParallel&) = delete;
  DataParallel& operator=(const DataParallel&) = delete;

  /// Gives every process the first one's values. `tensors` in one order everywhere.
  void broadcast(const std::vector<torch::Tensor>& tensors);

  /// loss.backward(). With `reduce`, every gradient is the mean over the processes of what has been
  /// accumulated there when it returns; without, it stays their own (inner micro-batches).
  void backward(const torch::Tensor& loss, bool reduce);

 private:
  struct State;
  Group& group_;
  std::unique_ptr<State> state_;
};

}  // namespace crnet
