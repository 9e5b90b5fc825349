// How fast a machine does what a training step is made of.
#pragma once

#include <cstdint>

#include "crnet/model/config.h"
#include "crnet/train/device.h"

namespace crnet {

/// Measured at a model's shapes. FLOPs as FlopCounts counts them.
struct MachineRates {
  double products = 0;            ///< FLOP/s of wide matrix products
  double low_rank_products = 0;   ///< FLOP/s of X A and (X A) B
  double attention_forward = 0;   ///< FLOP/s of causal attention
  double attention_backward = 0;  ///< FLOP/s of its backward pass, which has twice the FLOPs
  double memory = 0;              ///< bytes/s, read and written, of adding one tensor to another
};

/// Takes about two seconds, and for that long a few hundred MiB, on a GPU 2 GiB.
MachineRates measure_machine_rates(const Runtime& runtime, const ModelConfig& model,
                                   int64_t sequence_length);

}  // namespace crnet
