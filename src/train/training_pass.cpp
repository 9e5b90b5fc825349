#include "train/training_pass.h"

#include <ATen/record_function.h>

#include "crnet/core/error.h"
#include "crnet/core/format.h"

namespace crnet {
namespace {

using torch::Tensor;

// Until libraries have chosen their kernels and have their workspaces.
constexpr int64_t kPassesBeforeRecording = 3;

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
  parameters_ = model_.parameters();
  records_ = true;
}

Tensor TrainingPass::run(const Batch& batch, bool reduce) {
  const bool makes_gradients = records_ && !parameters_.front().grad().defined();
  if (makes_gradients && !first_.graph && num_unrecorded_ >= kPassesBeforeRecording) {
    record_first(batch);
  }
  if (!first_.graph) {
    num_unrecorded_ += 1;
    return run_now(batch.inputs.to(device_, /*non_blocking=*/true),
                   batch.targets.to(device_, /*non_blocking=*/true), reduce);
  }

  RECORD_USER_SCOPE("crnet::recorded_pass");
  if (!makes_gradients && !next_.graph) record_pass(next_, first_.graph.get());
  tokens_.copy_(batch.inputs, /*non_blocking=*/true);
  targets_.copy_(batch.targets, /*non_blocking=*/true);
  const Recorded& pass = makes_gradients ? first_ : next_;
  pass.graph->replay();
  if (makes_gradients) {
    for (size_t i = 0; i < parameters_.size(); ++i) {
      parameters_[i].mutable_grad() = gradients_[i];
    }
  }
  return pass.loss.clone();  // the next replay writes it anew
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

void TrainingPass::record_pass(Recorded& pass, CudaGraph* beside) {
  auto graph = make_cuda_graph(device_, beside);
  graph->record([&] { pass.loss = run_now(tokens_, targets_, /*reduce=*/true); });
  pass.graph = std::move(graph);
}

void TrainingPass::record_first(const Batch& batch) {
  tokens_ = torch::empty_like(batch.inputs, batch.inputs.options().device(device_));
  targets_ = torch::empty_like(tokens_);
  record_pass(first_, nullptr);
  for (const Tensor& parameter : parameters_) gradients_.push_back(parameter.grad());
}

}  // namespace crnet
