#include "train/step_time.h"

#include "crnet/model/costs.h"

namespace crnet {
namespace {

constexpr double kFp32 = 4;

// One micro-batch, in seconds, from FLOPs and from bytes that pass through memory.
class StepTime {
 public:
  StepTime(const ModelConfig& config, const StepShape& shape, const MachineRates& rates)
      : config_(config),
        shape_(shape),
        rates_(rates),
        size_(shape.bf16 ? 2 : kFp32),
        tokens_(static_cast<double>(shape.batch * shape.sequence_length)),
        outputs_(config.architecture == Architecture::kCRNet
                     ? static_cast<double>(config.output_elements())
                     : 0) {}

  // Forward and backward with everything kept.
  [[nodiscard]] double base() const {
    const FlopCounts flops = count_flops(config_, shape_.sequence_length);
    double seconds =
        tokens_ * flops.attention * (1 / rates_.attention_forward + 2 / rates_.attention_backward);
    seconds += 3 * tokens_ * flops.head / rates_.products + head_bytes() / rates_.memory;
    double weights = 0;
    for (int64_t layer = 0; layer < config_.num_layers; ++layer) {
      const auto block = static_cast<double>(count_block_weights(config_, layer));
      seconds += 3 * tokens_ * 2 * block / product_rate(layer);
      weights += block;
    }
    // Backward reads and writes about twice what forward does, and adds up gradients of outputs.
    const double blocks =
        static_cast<double>(config_.num_layers) * (3 * block_bytes() + size_ * 6 * outputs_);
    const double casts = weights * (cast_bytes() + 3 * kFp32);  // gradients: written, added
    return seconds + (tokens_ * blocks + casts) / rates_.memory;
  }

  // What the backward pass does again.
  [[nodiscard]] double again() const {
    const auto& plan = shape_.recompute;
    const RecomputeCounts flops = count_recompute(config_, shape_.sequence_length, plan);
    double seconds = tokens_ * (flops.projections / product_rate(config_.num_layers - 1) +
                                flops.attention / rates_.attention_forward);
    for (size_t layer = 0; layer < plan.blocks.size(); ++layer) {
      const BlockPlan& block = plan.blocks[layer];
      if (block.graph) continue;
      const bool is_read = block.products && block.outputs;
      const double bytes = block_bytes() - (is_read ? size_ * 4 * outputs_ : 0);
      const auto weights =
          static_cast<double>(count_block_weights(config_, static_cast<int64_t>(layer)));
      seconds += (tokens_ * bytes + weights * cast_bytes()) / rates_.memory;
    }
    return seconds;
  }

 private:
  [[nodiscard]] double product_rate(int64_t layer) const {
    return config_.is_full_rank(layer) ? rates_.products : rates_.low_rank_products;
  }
  // Per token, in the forward pass of a block, read and written: norms, rotation, SwiGLU, residual
  // adds; c·Y_prev, then the sum with (X A) B.
  [[nodiscard]] double block_bytes() const {
    const auto C = static_cast<double>(config_.hidden_size),
               F = static_cast<double>(config_.ffn_size);
    return size_ * (4 * C + 4 * C + 3 * F + 6 * C + 4 * outputs_);
  }
  // Logits: written, read for the maximum, the sum and the gradient, read twice by its products.
  [[nodiscard]] double head_bytes() const {
    const auto V = static_cast<double>(config_.vocab_size),
               C = static_cast<double>(config_.hidden_size);
    return size_ * tokens_ * V * 6 + 6 * kFp32 * V * C;
  }
  // fp32 read, bf16 written, per weight.
  [[nodiscard]] double cast_bytes() const { return shape_.bf16 ? kFp32 + size_ : 0; }

  const ModelConfig& config_;
  const StepShape& shape_;
  const MachineRates& rates_;
  double size_, tokens_, outputs_;
};

}  // namespace

double predict_seconds(const ModelConfig& config, const StepShape& shape,
                       const MachineRates& rates) {
  const StepTime time(config, shape, rates);
  return time.base() + time.again();
}

}  // namespace crnet
