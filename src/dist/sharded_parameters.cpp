#include "dist/sharded_parameters.h"

#include <c10/util/ScopeExit.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <functional>

#include "crnet/core/error.h"

namespace crnet {
namespace {

using torch::Tensor;

class GradientHook : public torch::autograd::PostAccumulateGradHook {
 public:
  explicit GradientHook(std::function<void()> action) : action_(std::move(action)) {}
  void operator()(const torch::autograd::Variable&) override { action_(); }

 private:
  std::function<void()> action_;
};

// What is not a matrix, of all units, and then the matrices by unit. Every unit's use waits for the
// first bucket, and only for it, so it is updated first.
std::vector<ParameterUnit> with_small_apart(const std::vector<ParameterUnit>& units) {
  std::vector<ParameterUnit> split(1);
  for (const auto& unit : units) {
    ParameterUnit matrices{{}, unit.dtype};
    for (const auto& item : unit.parameters) {
      (item.second.dim() > 1 ? matrices : split[0]).parameters.push_back(item);
    }
    split.push_back(std::move(matrices));
  }
  return split;
}

size_t bucket_of(size_t unit) {
  return unit + 1;
}

}  // namespace

ShardedParameters::ShardedParameters(Group& group, const std::vector<ParameterUnit>& units,
                                     const DistConfig& config, torch::Device device)
    : group_(group),
      releases_(config.shard == Sharding::kParameters),
      wire_(config.gradients == GradientPrecision::kBf16 ? torch::kBFloat16 : torch::kFloat32),
      uses_(units.size()) {
  const auto split = with_small_apart(units);
  buckets_.reserve(split.size());
  for (size_t bucket = 0; bucket < split.size(); ++bucket) {
    buckets_.emplace_back(split[bucket], group.shard_handle(), group.replica_handle(), device,
                          releases_ && bucket > 0);
    add_hooks(bucket);
  }
}

// The parameters may live on.
ShardedParameters::~ShardedParameters() {
  for (const auto& bucket : buckets_) {
    for (size_t member = 0; member < bucket.num_parameters(); ++member) {
      torch::autograd::impl::post_acc_grad_hooks(bucket.parameter(member)).reset();
    }
  }
}

void ShardedParameters::add_hooks(size_t bucket) {
  for (size_t member = 0; member < buckets_[bucket].num_parameters(); ++member) {
    torch::autograd::impl::set_post_acc_grad_hooks(
        buckets_[bucket].parameter(member),
        std::make_unique<GradientHook>([this, bucket, member] { take_gradient(bucket, member); }));
  }
}

void ShardedParameters::take_gradient(size_t bucket, size_t member) {
  if (!buckets_[bucket].take_gradient(member, last_micro_batch_, wire_)) return;
  sums_.push_back(bucket);
  if (sums_.size() <= kSumsAtOnce) return;
  buckets_[sums_.front()].finish_sum();
  sums_.pop_front();
}

// Inside the backward pass the whole of it is watched over already.
template <class Work>
void ShardedParameters::communicate(const char* what, const Work& work) {
  if (in_backward_) return work();
  group_.communicate(what, work);
}

std::vector<std::vector<TensorPiece>> ShardedParameters::pieces() const {
  std::vector<std::vector<TensorPiece>> pieces;
  for (const auto& bucket : buckets_) pieces.push_back(bucket.pieces());
  return pieces;
}

int ShardedParameters::copies() const {
  return group_.size() / group_.shard_handle()->getSize();
}

int ShardedParameters::copy() const {
  return group_.rank() / group_.shard_handle()->getSize();
}

void ShardedParameters::synchronize() {
  group_.communicate("the first weights", [&] {
    if (const auto& replicas = group_.replica_handle()) {
      for (auto& bucket : buckets_) {
        std::vector<Tensor> master = {bucket.master()};
        replicas->broadcast(master)->wait();
      }
    }
    for (size_t bucket = 0; bucket < buckets_.size(); ++bucket) updated(bucket);
    for (auto& bucket : buckets_) bucket.wait_for_weights();
  });
}

void ShardedParameters::backward(const Tensor& loss, bool reduce) {
  last_micro_batch_ = reduce;
  group_.communicate(reduce ? "gradients" : "weights", [&] {
    in_backward_ = true;
    const auto ends = c10::make_scope_exit([this] { in_backward_ = false; });
    loss.backward();
    if (reduce) finish_gradients();
  });
}

void ShardedParameters::finish_gradients() {
  for (; !sums_.empty(); sums_.pop_front()) buckets_[sums_.front()].finish_sum();
  for (auto& bucket : buckets_) {
    if (bucket.num_parameters() == 0) continue;
    if (!bucket.has_sum()) {
      throw Error("[dist] expected a gradient of every parameter, got none of some, as in " +
                  bucket.parameter_name(0));
    }
    bucket.finish_mean(group_.size());
  }
}

// Weights that are released are gathered when they are used.
void ShardedParameters::updated(size_t bucket) {
  buckets_[bucket].forget_weights();
  if (releases_ && bucket > 0) return;
  communicate("weights", [&] { buckets_[bucket].start_gather(); });
}

void ShardedParameters::before_use(size_t unit, bool forward) {
  if (uses_[unit]++ > 0) return;
  communicate("weights", [&] {
    const size_t bucket = bucket_of(unit);
    buckets_[0].wait_for_weights();
    buckets_[bucket].start_gather();
    if (releases_) prefetch(bucket, forward);
    buckets_[bucket].wait_for_weights();
  });
}

// The next unit's weights travel while this one is computed with. The first unit's, the
// embedding's, are not read in the backward pass.
void ShardedParameters::prefetch(size_t bucket, bool forward) {
  if (forward && bucket + 1 < buckets_.size()) buckets_[bucket + 1].start_gather();
  if (!forward && bucket > bucket_of(1)) buckets_[bucket - 1].start_gather();
}

void ShardedParameters::after_use(size_t unit) {
  if (--uses_[unit] == 0) buckets_[bucket_of(unit)].release_weights();
}

}  // namespace crnet
