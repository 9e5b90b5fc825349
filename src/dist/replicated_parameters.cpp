#include "dist/replicated_parameters.h"

#include <torch/csrc/distributed/c10d/comm.hpp>
#include <torch/csrc/distributed/c10d/reducer.hpp>

#include <algorithm>

namespace crnet {
namespace {

using torch::Tensor;
constexpr int64_t kMiB = 1024 * 1024;
// The first bucket is small, so that reduction starts early.
constexpr int64_t kFirstBucket = kMiB;

// Sums a bucket in bf16. The Reducer has divided it by nothing: the mean is taken here.
class Bf16Hook : public c10d::CppCommHookInterface<c10::intrusive_ptr<c10d::ProcessGroup>> {
 public:
  using CppCommHookInterface::CppCommHookInterface;

  c10::intrusive_ptr<c10::ivalue::Future> runHook(c10d::GradBucket& bucket) override {
    const Tensor whole = bucket.getBuffer();
    std::vector<Tensor> rounded = {whole.div(state_->getSize()).to(torch::kBFloat16)};
    auto future = state_->allreduce(rounded)->getFuture();
    return future->then(
        [whole, sum = rounded[0]](c10::ivalue::Future& done) -> c10::IValue {
          done.value();  // throws what went wrong
          whole.copy_(sum);
          return std::vector<Tensor>{whole};
        },
        c10::ListType::create(c10::TensorType::get()));
  }
};

// Gradients come from the last parameter to the first, and so do buckets.
std::vector<std::vector<size_t>> assign_buckets(const std::vector<Tensor>& parameters,
                                                int64_t bytes) {
  const std::vector<Tensor> reversed(parameters.rbegin(), parameters.rend());
  auto [buckets, limits] = c10d::compute_bucket_assignment_by_size(
      reversed, {static_cast<size_t>(std::min(kFirstBucket, bytes)), static_cast<size_t>(bytes)});
  for (auto& bucket : buckets) {
    for (auto& index : bucket) index = parameters.size() - 1 - index;
  }
  return buckets;
}

}  // namespace

struct ReplicatedParameters::State {
  State(Group& group, const std::vector<Tensor>& parameters, const DistConfig& config)
      : reducer(parameters, assign_buckets(parameters, config.bucket_mib * kMiB), group.handle(),
                std::vector<bool>(parameters.size(), false), config.bucket_mib * kMiB,
                /*find_unused_parameters=*/false, /*gradient_as_bucket_view=*/true, {},
                kFirstBucket, /*skip_all_reduce_unused_params=*/false, /*use_python_reducer=*/false,
                {}) {
    if (config.gradients != GradientPrecision::kBf16) return;
    reducer.register_comm_hook(std::make_unique<Bf16Hook>(group.handle()));
  }
  void rehearse(const std::vector<Tensor>& parameters);
  c10d::Reducer reducer;
};

// The Reducer orders its buckets anew after the first backward pass, by which gradient came first,
// and until it has, keeps a record that grows with every step. Here it does so once, with zeros, in
// an order that depends on nothing else: so a run's first step sums in the order of all others.
void ReplicatedParameters::State::rehearse(const std::vector<Tensor>& parameters) {
  Tensor nothing = torch::zeros({}, parameters.front().options());
  for (const auto& p : parameters) nothing = nothing + p.reshape({-1})[0] * 0;
  reducer.prepare_for_backward({});
  nothing.backward();
  reducer.rebuild_buckets();
  for (auto p : parameters) p.mutable_grad().reset();
}

ReplicatedParameters::ReplicatedParameters(Group& group, const std::vector<ParameterUnit>& units,
                                           const DistConfig& config)
    : group_(group) {
  std::vector<Tensor> parameters;
  for (const auto& unit : units) {
    for (const auto& [name, parameter] : unit.parameters) {
      pieces_.push_back(whole_piece(name, parameter));
      parameters.push_back(parameter);
    }
  }
  if (group.size() == 1) return;
  group.communicate("the first gradients", [&] {
    state_ = std::make_unique<State>(group, parameters, config);
    state_->rehearse(parameters);
  });
}

ReplicatedParameters::~ReplicatedParameters() = default;

void ReplicatedParameters::synchronize() {
  if (!state_) return;
  const torch::NoGradGuard no_grad;
  std::vector<Tensor> values;
  for (const auto& piece : pieces_) values.push_back(piece.values.detach());
  group_.communicate("the first weights", [&] {
    c10d::broadcast_coalesced(group_.handle(), values, static_cast<size_t>(250 * kMiB));
  });
}

void ReplicatedParameters::backward(const Tensor& loss, bool reduce) {
  if (!state_ || !reduce) return loss.backward();
  state_->reducer.prepare_for_backward({});
  group_.communicate("gradients", [&] { loss.backward(); });
}

}  // namespace crnet
