#include "dist/sharded_parameters.h"

#include <c10/util/ScopeExit.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <functional>

#include "crnet/core/error.h"
#include "crnet/core/format.h"

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

// Matrices by unit, then everything else as one more.
std::vector<ParameterUnit> with_small_apart(const std::vector<ParameterUnit>& units) {
  std::vector<ParameterUnit> split;
  ParameterUnit small;
  for (const auto& unit : units) {
    auto& matrices = split.emplace_back(ParameterUnit{{}, unit.dtype});
    for (const auto& item : unit.parameters) {
      (item.second.dim() > 1 ? matrices : small).parameters.push_back(item);
    }
  }
  split.push_back(std::move(small));
  return split;
}

}  // namespace

ShardedParameters::ShardedParameters(Group& group, const std::vector<ParameterUnit>& units,
                                     const DistConfig& config, torch::Device device)
    : group_(group),
      releases_(config.shard == Sharding::kParameters),
      wire_(config.gradients == GradientPrecision::kBf16 ? torch::kBFloat16 : torch::kFloat32),
      uses_(units.size()) {
  const auto split = with_small_apart(units);
  units_.reserve(split.size());
  for (size_t unit = 0; unit < split.size(); ++unit) {
    const bool is_small = unit + 1 == split.size();
    units_.emplace_back(split[unit], group.shard_handle(), device, releases_ && !is_small);
    add_hooks(unit);
  }
}

// The parameters may live on.
ShardedParameters::~ShardedParameters() {
  for (const auto& unit : units_) {
    for (size_t member = 0; member < unit.num_parameters(); ++member) {
      torch::autograd::impl::post_acc_grad_hooks(unit.parameter(member)).reset();
    }
  }
}

void ShardedParameters::add_hooks(size_t unit) {
  for (size_t member = 0; member < units_[unit].num_parameters(); ++member) {
    auto take = [this, unit, member] {
      units_[unit].take_gradient(member, last_micro_batch_, wire_);
    };
    torch::autograd::impl::set_post_acc_grad_hooks(units_[unit].parameter(member),
                                                   std::make_unique<GradientHook>(std::move(take)));
  }
}

// Inside the backward pass the whole of it is watched over already.
template <class Work>
void ShardedParameters::communicate(const char* what, const Work& work) {
  if (in_backward_) return work();
  group_.communicate(what, work);
}

std::vector<std::vector<TensorPiece>> ShardedParameters::pieces() const {
  std::vector<std::vector<TensorPiece>> pieces;
  for (const auto& unit : units_) pieces.push_back(unit.pieces());
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
      for (auto& unit : units_) {
        std::vector<Tensor> master = {unit.master()};
        replicas->broadcast(master)->wait();
      }
    }
    for (size_t unit = 0; unit < units_.size(); ++unit) updated(unit);
    for (auto& unit : units_) unit.wait_for_weights();
  });
}

void ShardedParameters::backward(const Tensor& loss, bool reduce) {
  last_micro_batch_ = reduce;
  group_.communicate(reduce ? "gradients" : "weights", [&] {
    in_backward_ = true;
    const auto ends = c10::make_scope_exit([this] { in_backward_ = false; });
    loss.backward();
    if (reduce) reduce_gradients();
  });
}

void ShardedParameters::reduce_gradients() {
  std::vector<Tensor> gradients;
  std::vector<WorkPtr> works;
  for (auto& unit : units_) {
    if (unit.num_parameters() == 0) {
      gradients.emplace_back();
      continue;
    }
    if (!unit.has_all_gradients()) {
      throw Error("[dist] expected a gradient of every parameter, got none of some, as in " +
                  unit.parameter_name(0));
    }
    gradients.push_back(unit.wait_for_gradient());
    if (const auto& replicas = group_.replica_handle()) {
      std::vector<Tensor> one = {gradients.back()};
      works.push_back(replicas->allreduce(one));
    }
  }
  for (const auto& work : works) work->wait();
  const torch::NoGradGuard no_grad;
  for (size_t unit = 0; unit < units_.size(); ++unit) {
    if (gradients[unit].defined()) units_[unit].set_gradient(gradients[unit].div_(group_.size()));
  }
}

// Weights that are released are gathered when they are used.
void ShardedParameters::updated(size_t bucket) {
  units_[bucket].forget_weights();
  if (!releases_ || bucket + 1 == units_.size()) units_[bucket].start_gather();
}

void ShardedParameters::before_use(size_t unit, bool forward) {
  if (uses_[unit]++ > 0) return;
  communicate("weights", [&] {
    units_.back().wait_for_weights();
    units_[unit].start_gather();
    if (releases_) prefetch(unit, forward);
    units_[unit].wait_for_weights();
  });
}

// The next unit's weights travel while this one is computed with.
void ShardedParameters::prefetch(size_t unit, bool forward) {
  if (forward && unit + 2 < units_.size()) units_[unit + 1].start_gather();
  if (!forward && unit > 1) units_[unit - 1].start_gather();
}

void ShardedParameters::after_use(size_t unit) {
  if (--uses_[unit] == 0) units_[unit].release_weights();
}

}  // namespace crnet
