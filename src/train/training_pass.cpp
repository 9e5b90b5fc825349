#include "train/training_pass.h"

#include <ATen/record_function.h>

#include <optional>
#include <string>

#include "crnet/core/error.h"
#include "crnet/core/format.h"

namespace crnet {
namespace {

using torch::Tensor;

#ifdef NDEBUG
constexpr bool kIsDebugBuild = false;
#else
constexpr bool kIsDebugBuild = true;
#endif

[[noreturn]] void refuse(const std::string& expected, const std::string& got) {
  throw UsageError("[train] train.cuda_graphs: expected " + expected + ", got " + got +
                   "; use --set train.cuda_graphs=false");
}

}  // namespace

TrainingPass::TrainingPass(CausalLMImpl& model, DataParallel& parallel, torch::Device device)
    : model_(model), parallel_(parallel), device_(device) {}

void TrainingPass::record(int num_processes) {
  if (!device_.is_cuda()) refuse("a run on a GPU", "one on the " + device_.str());
  if (num_processes > 1) refuse("one process", std::to_string(num_processes));
  if (model_.stack().plan().inverts) refuse("a plan that replays", "one that inverts");
  first_.graph = make_cuda_graph(device_);
  next_.graph = make_cuda_graph(device_, first_.graph.get());
  parameters_ = model_.parameters();
}

Tensor TrainingPass::run(const Batch& batch, bool reduce) {
  const bool records = first_.graph != nullptr;
  const bool makes_gradients = records && !parameters_.front().grad().defined();
  if (makes_gradients && !first_.loss.defined() && num_unrecorded_ >= kFirstPasses) {
    record_first(batch);
  }
  if (!first_.loss.defined()) {
    num_unrecorded_ += 1;
    std::optional<NoWaiting> no_waiting;
    if (asserts_no_waiting()) no_waiting.emplace();
    return run_now(batch.inputs.to(device_, /*non_blocking=*/true),
                   batch.targets.to(device_, /*non_blocking=*/true), reduce);
  }
  if (!makes_gradients) {
    if (!next_.loss.defined()) record_pass(next_);
    return replay(batch, next_);
  }
  const Tensor loss = replay(batch, first_);
  for (size_t i = 0; i < parameters_.size(); ++i) parameters_[i].mutable_grad() = gradients_[i];
  return loss;
}

// Gradients that go by Gloo wait for the GPU.
bool TrainingPass::asserts_no_waiting() const {
  const bool is_alone = parallel_.copies() == 1 && !parallel_.forward_communicates();
  return kIsDebugBuild && device_.is_cuda() && is_alone && num_unrecorded_ > kFirstPasses;
}

Tensor TrainingPass::run_now(const Tensor& tokens, const Tensor& targets, bool reduce) {
  Tensor loss;
  {
    RECORD_USER_SCOPE("crnet::forward");
    loss = model_.loss(tokens, targets);
  }
  RECORD_USER_SCOPE("crnet::backward");
  parallel_.backward(loss, reduce);
  return loss.detach();
}

Tensor TrainingPass::replay(const Batch& batch, const Recorded& pass) {
  RECORD_USER_SCOPE("crnet::recorded_pass");
  if (batch.inputs.sizes() != tokens_.sizes()) {
    throw Error(format("[train] expected micro-batches of %ld tokens, as recorded, got %ld",
                       static_cast<long>(tokens_.numel()),
                       static_cast<long>(batch.inputs.numel())));
  }
  tokens_.copy_(batch.inputs, /*non_blocking=*/true);
  targets_.copy_(batch.targets, /*non_blocking=*/true);
  pass.graph->replay();
  return pass.loss.clone();  // the next replay writes it anew
}

void TrainingPass::record_pass(Recorded& pass) {
  try {
    pass.graph->record([&] { pass.loss = run_now(tokens_, targets_, /*reduce=*/true); });
  } catch (const c10::Error& failure) {
    throw Error(
        format("[train] train.cuda_graphs: expected a pass that can be recorded, got: %s; "
               "use --set train.cuda_graphs=false",
               failure.what_without_backtrace()));
  }
}

void TrainingPass::record_first(const Batch& batch) {
  tokens_ = torch::empty_like(batch.inputs, batch.inputs.options().device(device_));
  targets_ = torch::empty_like(tokens_);
  record_pass(first_);
  for (const Tensor& parameter : parameters_) gradients_.push_back(parameter.grad());
}

}  // namespace crnet
