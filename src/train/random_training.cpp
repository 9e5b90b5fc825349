#include "train/random_training.h"

namespace crnet {

RandomTraining::RandomTraining(const RunConfig& config, const Runtime& runtime,
                               const RecomputePlan& plan)
    : state_(config, runtime, plan, group_) {
  state_.initialize(static_cast<uint64_t>(config.train.seed));
  state_.parallel->synchronize();
  torch::manual_seed(static_cast<uint64_t>(config.train.seed));
  const torch::Tensor text = torch::randint(
      config.model.vocab_size, {config.train.micro_batch, config.data.sequence_length + 1},
      torch::TensorOptions().dtype(torch::kInt64).device(runtime.device));
  batch_ = {text.slice(1, 0, -1).contiguous(), text.slice(1, 1).contiguous()};
  plan_.lr = config.optimizer.lr;
  plan_.clip_norm = config.optimizer.clip_norm;
}

StepResult RandomTraining::step() {
  const StepResult result = train_step(
      state_.pass, [&] { return batch_; }, state_.optimizer, group_, *state_.parallel, plan_);
  plan_.number += 1;
  return result;
}

}  // namespace crnet
