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

  // The embedding's lookup is next to nothing; the head's backward pass is made in its forward
  // pass.
  [[nodiscard]] std::vector<UnitSeconds> units() const {
    std::vector<UnitSeconds> units(static_cast<size_t>(config_.num_layers) + 2);
    for (int64_t layer = 0; layer < config_.num_layers; ++layer) {
      units[static_cast<size_t>(layer) + 1] = {forward(layer), backward(layer) + again(layer)};
    }
    const FlopCounts flops = count_flops(config_, shape_.sequence_length);
    units.back().forward =
        3 * tokens_ * flops.head / rates_.products + head_bytes() / rates_.memory;
    return units;
  }

 private:
  [[nodiscard]] double weights(int64_t layer) const {
    return static_cast<double>(count_block_weights(config_, layer));
  }
  // Of attention in one block.
  [[nodiscard]] double attention_flops() const {
    return tokens_ * count_flops(config_, shape_.sequence_length).attention /
           static_cast<double>(config_.num_layers);
  }
  [[nodiscard]] double forward(int64_t layer) const {
    return tokens_ * 2 * weights(layer) / product_rate(layer) +
           attention_flops() / rates_.attention_forward +
           (tokens_ * forward_bytes() + weights(layer) * cast_bytes()) / rates_.memory;
  }
  // Gradients of weights: written, added.
  [[nodiscard]] double backward(int64_t layer) const {
    const double bytes = tokens_ * backward_bytes();
    return 2 * tokens_ * 2 * weights(layer) / product_rate(layer) +
           2 * attention_flops() / rates_.attention_backward +
           (bytes + weights(layer) * 3 * kFp32) / rates_.memory;
  }
  // What the backward pass does again.
  [[nodiscard]] double again(int64_t layer) const {
    if (shape_.recompute.blocks.empty()) return 0;
    const BlockPlan& block = shape_.recompute.blocks[static_cast<size_t>(layer)];
    if (block.graph) return 0;
    const RecomputeCounts flops =
        count_block_recompute(config_, shape_.sequence_length, shape_.recompute, layer);
    const bool is_read = block.products && block.outputs;
    const double bytes = forward_bytes() - (is_read ? sum_bytes() : 0);
    return tokens_ * (flops.projections / product_rate(config_.num_layers - 1) +
                      flops.attention / rates_.attention_forward) +
           (tokens_ * bytes + weights(layer) * cast_bytes()) / rates_.memory;
  }
  [[nodiscard]] double product_rate(int64_t layer) const {
    return config_.is_full_rank(layer) ? rates_.products : rates_.low_rank_products;
  }
  // Per token, in the forward pass of a block, read and written beside the products: norms,
  // rotation, SwiGLU, residual adds, c·Y_prev. On a GPU as crnet's kernels do.
  [[nodiscard]] double forward_bytes() const {
    const auto C = static_cast<double>(config_.hidden_size),
               F = static_cast<double>(config_.ffn_size);
    if (shape_.on_cpu) return size_ * (4 * C + 4 * C + 3 * F + 6 * C) + sum_bytes();
    const double norms = 2 * C + 4 * C, rotation = 4 * C, add = 3 * C;
    return size_ * (norms + rotation + 3 * F + add) + sum_bytes();
  }
  // c·Y_prev, then the sum with (X A) B; on a GPU Y_prev is read within the product.
  [[nodiscard]] double sum_bytes() const { return size_ * (shape_.on_cpu ? 4 : 1) * outputs_; }
  // Per token, in the backward pass. On a CPU about twice what forward does, and gradients of
  // outputs are added up. On a GPU: norms and their results again, rotation back and SwiGLU with
  // its result; where outputs go on, rotation again, and each with what is carried to it and
  // Y_prev.
  [[nodiscard]] double backward_bytes() const {
    if (shape_.on_cpu) return 2 * forward_bytes() + size_ * 6 * outputs_;
    const auto C = static_cast<double>(config_.hidden_size),
               F = static_cast<double>(config_.ffn_size);
    const double norms = 8 * C + 6 * C, rotation = (rotates_again() ? 8 : 4) * C, swiglu = 6 * F;
    const double carried =
        outputs_ > 0 ? 4 * C + 4 * F + 3 * 4 * C : 0;  // q, k, gate, up; v, o, down
    return size_ * (norms + rotation + swiglu + carried);
  }
  [[nodiscard]] bool rotates_again() const {
    return outputs_ > 0 && can_hold_attention(config_, shape_);
  }
  // Logits: written, read for the maximum, the sum and the gradient, read twice by its products.
  [[nodiscard]] double head_bytes() const {
    const auto V = static_cast<double>(config_.vocab_size),
               C = static_cast<double>(config_.hidden_size);
    return size_ * tokens_ * V * 6 + 6 * kFp32 * V * C;
  }
  // fp32 read, bf16 written, per weight.
  [[nodiscard]] double cast_bytes() const { return casts_weights(shape_) ? kFp32 + size_ : 0; }

  const ModelConfig& config_;
  const StepShape& shape_;
  const MachineRates& rates_;
  double size_, tokens_, outputs_;
};

}  // namespace

std::vector<UnitSeconds> predict_units(const ModelConfig& config, const StepShape& shape,
                                       const MachineRates& rates) {
  return StepTime(config, shape, rates).units();
}

double predict_seconds(const ModelConfig& config, const StepShape& shape,
                       const MachineRates& rates) {
  double seconds = 0;
  for (const auto& unit : predict_units(config, shape, rates)) {
    seconds += unit.forward + unit.backward;
  }
  return seconds;
}

}  // namespace crnet
