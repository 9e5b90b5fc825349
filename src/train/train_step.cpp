#include "train/train_step.h"

#include <ATen/record_function.h>

#include <cmath>

#include "crnet/core/format.h"

namespace crnet {
namespace {

// Work that a profiler sees under a name.
template <class Work>
auto stage(const char* name, const Work& work) {
  RECORD_USER_SCOPE(name);
  return work();
}

}  // namespace

StepResult train_step(TrainingPass& pass, const std::function<Batch()>& next_batch,
                      AdamW& optimizer, Group& group, DataParallel& data_parallel,
                      const StepPlan& plan) {
  RECORD_USER_SCOPE(format("ProfilerStep#%ld", static_cast<long>(plan.number)));
  StepResult result;

  // 1. Gradients of every micro-batch, summed, and on the last averaged over the processes. The
  // losses stay on the device until all are queued.
  torch::Tensor loss_sum;
  for (int64_t i = 0; i < plan.num_micro_batches; ++i) {
    const Batch batch = stage("crnet::next_batch", next_batch);
    const torch::Tensor loss = pass.run(batch, /*reduce=*/i + 1 == plan.num_micro_batches);
    loss_sum = loss_sum.defined() ? loss_sum + loss : loss;
  }

  // 2. The norm of their mean, which sets the clipping: of the pieces of all processes. What is not
  // finite on one is so on all. The loss is read when the norm is there: the device is waited for
  // once.
  const auto agree = [&](double norm) {
    const double loss = loss_sum.item<double>();
    const auto sums = group.sum({loss, plan.wants_to_stop ? 1.0 : 0.0, norm * norm}, "the loss");
    result.loss = sums[0] / static_cast<double>(group.size() * plan.num_micro_batches);
    result.stops = sums[1] > 0;
    return std::sqrt(sums[2] / data_parallel.copies());
  };
  result.grad_norm = stage("crnet::clip", [&] {
    return optimizer.clip_grad_norm(plan.clip_norm, plan.num_micro_batches, agree);
  });

  // 3. The update, unless something is not finite: then neither weights nor moments may see it.
  result.skipped = !std::isfinite(result.loss) || !std::isfinite(result.grad_norm);
  if (!result.skipped) {
    stage("crnet::update",
          [&] { optimizer.step(plan.lr, [&](size_t bucket) { data_parallel.updated(bucket); }); });
  }

  // 4. Room for the next step.
  stage("crnet::release_gradients", [&] { optimizer.zero_grad(); });
  return result;
}

}  // namespace crnet
