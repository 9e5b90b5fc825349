// One update of the weights.
#pragma once

#include "crnet/data/loader.h"
#include "crnet/model/causal_lm.h"
#include "crnet/train/optimizer.h"

namespace crnet {

struct StepResult {
  double loss = 0;       ///< mean over the micro-batches, nats per token
  double grad_norm = 0;  ///< of the mean gradient, before clipping
  bool skipped = false;  ///< either was not finite: the weights are as before
};

struct StepPlan {
  int64_t num_micro_batches = 1;
  double lr = 0;
  double clip_norm = 0;
};

/// Takes the micro-batches from `loader`, accumulates their gradients, clips and updates.
StepResult train_step(CausalLMImpl& model, torch::Device device, Loader& loader, AdamW& optimizer,
                      const StepPlan& plan);

}  // namespace crnet
