// How fast a training step is, and how far from the matrix products and attention that it cannot
// avoid.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "crnet/config/load.h"
#include "crnet/train/device.h"
#include "crnet/train/run_config.h"

namespace crnet {

/// What several rounds measured.
struct Spread {
  double median = 0, least = 0, most = 0;
};

/// Of one training step: the time in an operator itself, without the operators that it calls; on a
/// GPU in a kernel.
struct OperatorTime {
  std::string name;
  double milliseconds = 0;
  double calls = 0;
};

/// Operators of one kind, the longest first.
struct OperatorGroup {
  std::string name;
  double milliseconds = 0;
  std::vector<OperatorTime> operators;
};

/// What a step cannot avoid: every matrix product and its two gradients by LibTorch's mm into
/// memory that is there, and causal attention forward and backward by LibTorch's
/// scaled_dot_product_attention, in the shapes, layouts and dtype of the step (but in fp32 for bf16
/// on x86 without AVX-512, where LibTorch multiplies bf16 number by number; and gradients of
/// weights in that dtype, which a GPU sums up in fp32). Attention is LibTorch's fused one or, on a
/// CPU, its composition of products and a softmax in that dtype, whichever has the lower median
/// (the latter only where its scores fit into 512 MiB). Operands of one shape share memory, so the
/// floor finds them in the caches more often than a step can. Times in milliseconds.
struct FloorTimes {
  int64_t num_products = 0, num_attentions = 0;
  Spread products;
  Spread attention;                ///< by the faster of LibTorch's two
  bool attention_is_fused = true;  ///< which of them that is
  Spread other_attention;          ///< the slower one; 0 where it was not timed
  Spread both;                     ///< products and attention
  Spread ratio;                    ///< step over both, round by round
};

struct BenchOptions {
  int64_t rounds = 5;  ///< steps, each with a floor after it if there is one
  bool floor = false;  ///< whether it is timed too
};

/// Times in milliseconds.
struct BenchReport {
  Runtime runtime;
  std::string recompute;  ///< the plan, in words
  int64_t tokens = 0;     ///< of a step
  double flops = 0;       ///< of its products and attention, as count_flops() counts them
  double peak_flops = 0;  ///< of large matrix products a second, as measure_peak_flops()
  Spread step;            ///< forward and backward pass, clipping, AdamW
  std::optional<FloorTimes> floor;
  int64_t peak_bytes = 0;      ///< peak_memory_bytes(); 0 with a floor, which would count too
  int64_t profiled_steps = 0;  ///< steps that `breakdown` is the mean of
  /// Where a step's time goes, the longest group first; with the profiler on, so slower by some
  /// percent in a small model. On a GPU: the kernels' time, and between them what the host takes to
  /// start them, longer than without the profiler.
  std::vector<OperatorGroup> breakdown;
};

/// Times whole training steps of `loaded` on random tokens (one micro-batch each, recomputation as
/// configured), in turn with their floor if asked for. data.path is not looked at. Needs the memory
/// of a training step, and for the floor of each product and call of attention once.
///
/// Throws UsageError for a configuration that does not fit the machine, or fewer than 1 round.
[[nodiscard]] BenchReport measure_training_step(const LoadedConfig<RunConfig>& loaded,
                                                const BenchOptions& options = {});

}  // namespace crnet
