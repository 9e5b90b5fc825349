// A model whose parameters the processes of a run have between them.
#pragma once

#include <memory>
#include <vector>

#include "crnet/dist/data_parallel.h"
#include "crnet/model/causal_lm.h"
#include "crnet/train/device.h"

namespace crnet {

/// A causal language model and how its work is shared, as DistConfig says. Master weights are fp32;
/// where they are split, matrices of blocks are gathered in the compute dtype, and no device need
/// ever hold all of them. `group` must outlive it.
struct ParallelModel {
  ParallelModel(const ModelConfig& config, const DistConfig& dist, const Runtime& runtime,
                Group& group);

  /// Fresh weights in this process's pieces, the same for any number of processes; see initialize()
  /// in model/init.h. parallel->synchronize() has to follow, as after any change of all pieces.
  void initialize(uint64_t seed);

  /// What this process updates, in a row.
  [[nodiscard]] std::vector<TensorPiece> pieces() const;
  /// Names, shapes and dtype of the whole master weights.
  [[nodiscard]] std::vector<TensorSpec> specs() const;

  CausalLM model;
  std::unique_ptr<DataParallel> parallel;
};

}  // namespace crnet
