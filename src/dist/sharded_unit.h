// Parameters that are gathered, reduced and updated at once, split over the processes of a group.
#pragma once

#include <torch/types.h>

#include <string>
#include <vector>

#include "crnet/dist/data_parallel.h"
#include "crnet/interop/tensor_pieces.h"
#include "dist/collectives.h"

namespace crnet {

/// Elements of each of `num_processes` equal parts of parameters of these sizes.
[[nodiscard]] int64_t part_of_unit(const std::vector<int64_t>& counts, int64_t num_processes);

/// Its parameters lie end to end in one buffer, each at a multiple of 64 elements, padded so that
/// all processes of the group have equal parts. Of the fp32 master weights and of the gradients'
/// mean a process has its own part alone; the weights that are computed with, in the unit's dtype,
/// are gathered from the parts.
class ShardedUnit {
 public:
  /// Takes over the parameters: their values become undefined, their memory is the unit's.
  /// `releases`: whether the gathered weights are given up between uses.
  /// `replicas`: the processes that have the same part in other groups; null where there are none.
  ShardedUnit(const ParameterUnit& unit, ProcessGroupPtr group, ProcessGroupPtr replicas,
              torch::Device device, bool releases);

  /// This process's part of the master weights, without the padding; views.
  [[nodiscard]] const std::vector<TensorPiece>& pieces() const { return pieces_; }
  [[nodiscard]] torch::Tensor& master() { return master_; }
  [[nodiscard]] const std::string& parameter_name(size_t member) const {
    return members_[member].name;
  }
  [[nodiscard]] size_t num_parameters() const { return members_.size(); }
  [[nodiscard]] const torch::Tensor& parameter(size_t member) const {
    return members_[member].parameter;
  }

  /// Starts to gather the weights from the masters, unless that is under way or done.
  void start_gather();
  void wait_for_weights();
  void release_weights();
  /// The masters have new values.
  void forget_weights() { is_gathered_ = false; }

  /// Takes a parameter's gradient, which is one term of a sum over micro-batches, away from it.
  /// With the last parameter of the last micro-batch the sum over the group starts, in `wire`:
  /// then true.
  [[nodiscard]] bool take_gradient(size_t member, bool last_micro_batch, torch::ScalarType wire);
  /// Waits for that sum, of which this process keeps its part, and starts the one over replicas.
  void finish_sum();
  [[nodiscard]] bool has_sum() const { return part_gradient_.defined(); }
  /// Waits for the last of it, and hands the mean over `count` processes to the pieces.
  void finish_mean(int count);

 private:
  struct Member {
    std::string name;
    torch::Tensor parameter;
    std::vector<int64_t> shape;
    int64_t offset, count;
  };
  void lay_out(const ParameterUnit& unit);
  void make_pieces();
  [[nodiscard]] torch::Tensor own_part(const torch::Tensor& whole) const;
  [[nodiscard]] torch::Tensor of_member(const torch::Tensor& whole, const Member& member) const;

  const ProcessGroupPtr group_, replicas_;
  const bool releases_;
  std::vector<Member> members_;
  int64_t part_ = 0;       // elements of a process
  torch::Tensor weights_;  // [size · part], in the unit's dtype
  torch::Tensor master_;   // [part], fp32
  std::vector<TensorPiece> pieces_;
  bool is_gathered_ = false;
  WorkPtr gather_;
  torch::Tensor gradients_;  // [size · part], of the micro-batches so far
  size_t num_taken_ = 0;     // parameters, in this micro-batch
  ScatteredSum sum_;
  torch::Tensor part_gradient_;  // [part], fp32
  WorkPtr replica_sum_;
};

}  // namespace crnet
