// AdamW on fp32 master weights, by LibTorch's fused kernel.
#pragma once

#include <torch/ordered_dict.h>
#include <torch/types.h>

#include <functional>
#include <string>
#include <vector>

#include "crnet/interop/tensor_pieces.h"
#include "crnet/train/run_config.h"

namespace crnet {

/// AdamW with decoupled weight decay (Loshchilov & Hutter, arXiv 1711.05101). Matrices decay;
/// norms, β and the embedding (also where it serves as the head) do not. State: two fp32 moments
/// per element and the number of updates.
class AdamW {
 public:
  /// Called with the number of a bucket whose values are new.
  using OnUpdate = std::function<void(size_t bucket)>;

  /// Pieces of parameters, in buckets that are updated one after the other. Their `values` have the
  /// gradients.
  AdamW(std::vector<std::vector<TensorPiece>> buckets, const OptimizerConfig& config);
  /// Whole parameters, in one bucket.
  AdamW(const torch::OrderedDict<std::string, torch::Tensor>& parameters,
        const OptimizerConfig& config);

  /// The global norm of the gradients, which are taken to be sums over `num_accumulated` backward
  /// passes and meant to be their mean. The next step() divides them by that number and scales them
  /// to `max_norm` where they exceed it (0: never); the gradients themselves stay as they are until
  /// then. Not finite where any gradient is not. `agree` may put another norm in the place of the
  /// one that was found: that of all processes' pieces.
  double clip_grad_norm(double max_norm, int64_t num_accumulated = 1,
                        const std::function<double(double norm)>& agree = {});

  /// One update with this learning rate. Parameters without a gradient stay.
  void step(double lr, const OnUpdate& on_update = {});

  /// Lets go of the gradients.
  void zero_grad();

  /// Everything that an exact continuation needs: "exp_avg.<name>", "exp_avg_sq.<name>", fp32
  /// pieces as those of the parameters, and "updates", int64 []. The tensors are the optimizer's
  /// own: filling them and calling state_loaded() restores it.
  [[nodiscard]] std::vector<TensorPiece> state() const;
  void state_loaded();

  /// The names in state(), for whole parameters of these names and shapes.
  [[nodiscard]] static std::vector<TensorSpec> state_specs(
      const std::vector<TensorSpec>& parameters);

 private:
  struct Group {
    size_t bucket;
    double weight_decay;
    std::vector<size_t> members;
  };
  void step_group(const Group& group, double lr);

  OptimizerConfig config_;
  std::vector<TensorPiece> pieces_;
  std::vector<torch::Tensor> exp_avgs_, exp_avg_sqs_;
  std::vector<torch::Tensor> steps_;  // fp32 [] each, as the fused kernel wants it
  std::vector<Group> groups_;         // by bucket
  torch::Tensor updates_;             // int64 [] on the CPU
  double gradient_scale_ = 1;         // gradients are divided by it in step()
};

/// Whether weight decay applies to a parameter, by its name in the files.
bool has_weight_decay(const std::string& name);

}  // namespace crnet
