// Data parallelism with parameters that are split over processes.
#pragma once

#include <deque>
#include <vector>

#include "crnet/dist/config.h"
#include "crnet/dist/data_parallel.h"
#include "crnet/dist/group.h"
#include "dist/sharded_unit.h"

namespace crnet {

/// Sums that are under way at once: each holds a unit's gradients (by Gloo those of all processes
/// as well).
inline constexpr size_t kSumsAtOnce = 2;

/// See DataParallel. One bucket a unit, after a first one for what is small: norms and β of all
/// units stay gathered, in fp32.
class ShardedParameters : public DataParallel {
 public:
  ShardedParameters(Group& group, const std::vector<ParameterUnit>& units, const DistConfig& config,
                    torch::Device device);
  ~ShardedParameters() override;

  [[nodiscard]] std::vector<std::vector<TensorPiece>> pieces() const override;
  [[nodiscard]] int copies() const override;
  [[nodiscard]] int copy() const override;
  void synchronize() override;
  void backward(const torch::Tensor& loss, bool reduce) override;
  void updated(size_t bucket) override;
  void before_use(size_t unit, bool forward) override;
  void after_use(size_t unit) override;
  [[nodiscard]] bool forward_communicates() const override { return releases_; }

 private:
  void add_hooks(size_t bucket);
  void take_gradient(size_t bucket, size_t member);
  void finish_gradients();
  void prefetch(size_t bucket, bool forward);
  template <class Work>
  void communicate(const char* what, const Work& work);

  Group& group_;
  const bool releases_;
  const torch::ScalarType wire_;
  std::vector<ShardedUnit> buckets_;  // the first: what is small
  std::vector<int> uses_;             // that have begun and not ended, by unit
  std::deque<size_t> sums_;           // of which buckets are under way
  bool in_backward_ = false, last_micro_batch_ = false;
};

}  // namespace crnet
