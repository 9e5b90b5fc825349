// One forward pass of a BlockStack and what its backward pass needs of it.
#pragma once

#include <torch/custom_class.h>

#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "crnet/recompute/block_stack.h"
#include "crnet/recompute/tape.h"
#include "ops/carried_gradient.h"

namespace crnet {

/// Blocks count from 0 here. Shared by the nodes of its rebuilt blocks.
class StackRun : public torch::CustomClassHolder {
 public:
  StackRun(RecomputePlan plan, std::vector<StackBlock> blocks, ParameterUsePtr use,
           std::set<BlockStack::Span> replayed, std::shared_ptr<RecomputeDrift> drift);

  /// Calls a block without a graph; keeps what the plan says. `inputs`: the hidden state, the
  /// outputs below, the parameters.
  BlockState forward(size_t block, at::TensorList inputs);
  /// Keeps the outputs of a block that has its own graph, if a rebuilt block above reads them.
  void hold_outputs(size_t block, const BlockState& above);
  /// Once all blocks have been called: decides what is inverted and what replayed.
  void finish_forward();
  /// Rebuilds a block; gradients of its results, and what was carried to them, to gradients
  /// of its inputs, those of the outputs below undefined where they are carried on. Frees what it
  /// kept. Inputs are the node's that runs: the hidden state, the outputs below, the parameters.
  torch::autograd::tensor_list backward(size_t block, const torch::autograd::tensor_list& gradients,
                                        const std::vector<std::optional<Carried>>& carried);

  const RecomputePlan plan;
  const std::vector<StackBlock> blocks;
  std::set<BlockStack::Span> replayed;
  int64_t checked_block = 0;  // from 1; 0: none

 private:
  struct Record {
    torch::Tensor hidden;          // the block's hidden input
    size_t num_outputs_below = 0;  // outputs of the block below that it reads
    Tape tape;
  };

  TapeEntry& entry(size_t block, size_t projection);
  torch::Tensor& output(size_t block, size_t projection);
  void keep(size_t block, const BlockState& below, const BlockState& above);
  void decide(const BlockStack::Span& span, const std::vector<std::vector<double>>& c);
  [[nodiscard]] std::vector<std::vector<double>> read_scales() const;
  [[nodiscard]] BlockStack::Span span_of(size_t block, size_t projection) const;
  [[nodiscard]] bool is_replayed(size_t block, size_t projection) const;
  using Later = c10::intrusive_ptr<LaterTensor>;
  std::vector<torch::Tensor> outputs_below(size_t block, std::vector<Later>& later);
  [[nodiscard]] Later invert_later(size_t block, size_t projection);
  void replay_up_to(size_t block, const std::vector<size_t>& projections);
  void replay(size_t block, size_t projection);
  void measure_drift(size_t block);
  void release(size_t block);

  const ParameterUsePtr use_;
  std::vector<Record> records_;
  std::vector<std::vector<double>> c_;  // of every block and projection, where the plan inverts
  std::vector<torch::Tensor> truth_;    // true outputs of the checked block
  std::shared_ptr<RecomputeDrift> drift_;
};

}  // namespace crnet
