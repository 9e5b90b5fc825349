// Data parallelism with everything on every process.
#pragma once

#include <memory>
#include <vector>

#include "crnet/dist/config.h"
#include "crnet/dist/data_parallel.h"
#include "crnet/dist/group.h"

namespace crnet {

/// See DataParallel. One bucket to update. Does nothing but the backward pass in a group of one.
class ReplicatedParameters : public DataParallel {
 public:
  ReplicatedParameters(Group& group, const std::vector<ParameterUnit>& units,
                       const DistConfig& config);
  ~ReplicatedParameters() override;

  [[nodiscard]] std::vector<std::vector<TensorPiece>> pieces() const override { return {pieces_}; }
  [[nodiscard]] int copies() const override { return group_.size(); }
  [[nodiscard]] int copy() const override { return group_.rank(); }
  void synchronize() override;
  void backward(const torch::Tensor& loss, bool reduce) override;
  void updated(size_t) override {}
  void before_use(size_t, bool) override {}
  void after_use(size_t) override {}
  [[nodiscard]] bool forward_communicates() const override { return false; }

 private:
  struct State;
  Group& group_;
  std::vector<TensorPiece> pieces_;
  std::unique_ptr<State> state_;  // null in a group of one
};

}  // namespace crnet
