#include "crnet/model/memory.h"

#include <algorithm>

#include "crnet/ops/linear_cross_entropy.h"
#include "crnet/ops/matrix_product.h"
#include "ops/library_attention.h"
#include "ops/product.h"

namespace crnet {
namespace {

constexpr int64_t kFp32 = 4;

int64_t out(const ModelConfig& config, Projection p) {
  return config.out_features(p);
}

// On a GPU keys and values are spread over the query heads where those are grouped.
bool spreads_keys(const ModelConfig& config, const StepShape& shape) {
  return !shape.on_cpu && config.kv_heads() != config.num_heads;
}

// gate ⊙ up without a SiLU, as CoLA may have it, is LibTorch's product, which nothing makes again.
int64_t kept_products(const ModelConfig& config) {
  const bool is_plain = config.architecture == Architecture::kCoLA && !config.cola_mlp_activation;
  return is_plain ? config.ffn_size : 0;
}

// Elements per token of the compute dtype that the graph of a block keeps, apart from low-rank
// products and from what the block above reads. Norms, sums, SwiGLU's result and, where rope does
// so, rotated queries and keys are made again from these. `spread`: keys and values are kept for
// every query head.
int64_t block_elements(const ModelConfig& config, bool spread) {
  const int64_t C = config.hidden_size, F = config.ffn_size, kv = out(config, Projection::kK);
  // The residual stream below, and what attention adds to it; gate and up; attention's queries,
  // keys and values and its result.
  return 2 * C + 2 * F + kept_products(config) + 2 * C + (spread ? 2 * C : 2 * kv);
}

// The raw outputs that the block above reads, apart from those counted already: o, gate and up
// always, v where it is not spread, q and k where they are rotated again.
int64_t read_above_elements(const ModelConfig& config, bool rotates_again, bool spread) {
  const int64_t C = config.hidden_size, kv = out(config, Projection::kK);
  return C + (rotates_again ? 0 : C + kv) + (spread ? kv : 0);
}

int64_t low_rank_elements(const ModelConfig& config, int64_t layer) {
  if (config.is_full_rank(layer)) return 0;
  int64_t sum = 0;
  for (int64_t p = 0; p < kNumProjections; ++p) {
    sum += config.low_rank(layer, static_cast<Projection>(p));
  }
  return sum;
}

// A plan asks for the outputs below a block with a graph as well: that graph holds them.
bool holds_outputs(const std::vector<BlockPlan>& plan, size_t layer) {
  return plan[layer].outputs || (layer + 1 < plan.size() && plan[layer + 1].graph);
}

// One training step, block by block. Sizes are bytes per token unless said otherwise.
class StepMemory {
 public:
  StepMemory(const ModelConfig& config, const StepShape& shape, const StateMemory& state)
      : config_(config),
        shape_(shape),
        state_(state),
        plan_(shape.recompute.blocks),
        can_hold_attention_(can_hold_attention(config, shape)),
        spreads_(spreads_keys(config, shape)),
        size_(shape.bf16 ? 2 : kFp32),
        tokens_(shape.batch * shape.sequence_length),
        casts_weights_(casts_weights(shape)) {
    if (plan_.empty()) plan_.assign(static_cast<size_t>(config.num_layers), {.graph = true});
    if (config.architecture == Architecture::kCRNet) outputs_ = size_ * config.output_elements();
  }

  [[nodiscard]] MemoryCounts count() const;

 private:
  // What autograd keeps of a block, its outputs for the block above not included.
  [[nodiscard]] int64_t graph(size_t layer) const {
    // CoLA keeps X A on both sides of its nonlinearity.
    const int64_t sides = config_.architecture == Architecture::kCoLA ? 2 : 1;
    const auto block = static_cast<int64_t>(layer);
    return size_ * (block_elements(config_, keeps_spread()) +
                    sides * low_rank_elements(config_, block)) +
           kFp32 * (2 + config_.num_heads);  // both norms, attention's log-sum-exp
  }
  [[nodiscard]] int64_t read_above(size_t layer) const {
    return layer + 1 < plan_.size() && outputs_ > 0
               ? size_ * read_above_elements(config_, rotates_again(layer), keeps_spread())
               : 0;
  }
  // Attention that holds its products keeps keys and values as they come.
  [[nodiscard]] bool keeps_spread() const { return spreads_ && !can_hold_attention_; }
  // Whether rotated queries and keys are made again from outputs that the block above reads.
  [[nodiscard]] bool rotates_again(size_t layer) const {
    return can_hold_attention_ && outputs_ > 0 && layer + 1 < plan_.size();
  }
  [[nodiscard]] ActivationCounts kept(size_t layer) const;
  [[nodiscard]] int64_t rebuilt_outputs(size_t layer) const;
  [[nodiscard]] int64_t working_set(size_t layer) const;
  [[nodiscard]] bool inverts_below(size_t layer) const;
  [[nodiscard]] int64_t in_backward(size_t layer) const;
  // Matrices of the head in bf16 while a chunk of so many rows is worked on.
  [[nodiscard]] int64_t head_copies(int64_t rows) const {
    if (!shape_.bf16) return 0;
    if (!shape_.on_cpu) return 1;
    return (rounds_weights_as_packed(torch::kBFloat16, rows) ? 0 : 1) +
           (rounds_weights_as_packed(torch::kBFloat16, config_.vocab_size) ? 0 : 1);
  }
  // Bytes in all.
  [[nodiscard]] int64_t weight_copy(size_t layer) const {
    return casts_weights_ ? state_.units[layer + 1].copy : 0;
  }
  [[nodiscard]] int64_t taken(const StateMemory::Unit& unit) const;
  [[nodiscard]] int64_t in_transit(size_t unit) const;
  [[nodiscard]] int64_t passing(size_t layer) const;
  [[nodiscard]] int64_t gathered(size_t layer) const;
  void count_activations(MemoryCounts& memory) const;

  const ModelConfig& config_;
  const StepShape& shape_;
  const StateMemory& state_;
  std::vector<BlockPlan> plan_;
  bool can_hold_attention_, spreads_;
  int64_t size_, tokens_;
  bool casts_weights_;
  int64_t outputs_ = 0;  // Y of the seven projections of a block
};

ActivationCounts StepMemory::kept(size_t layer) const {
  const BlockPlan& block = plan_[layer];
  ActivationCounts kept;
  if (block.graph) {
    kept.graphs = graph(layer) + read_above(layer);
    return kept;
  }
  kept.inputs = size_ * config_.hidden_size;
  if (block.products) {
    kept.products = size_ * low_rank_elements(config_, static_cast<int64_t>(layer));
  }
  if (holds_outputs(plan_, layer)) kept.outputs = outputs_;
  if (block.attention) kept.attention = size_ * config_.hidden_size + kFp32 * config_.num_heads;
  return kept;
}

// Y that has been rebuilt, and not been kept, of the blocks below `layer` when `layer` is
// differentiated.
int64_t StepMemory::rebuilt_outputs(size_t layer) const {
  if (plan_[layer].graph || !plan_[layer].products) return 0;
  int64_t held = 0;
  for (size_t below = layer; below-- > 0 && !plan_[below].graph;) {
    if (holds_outputs(plan_, below)) break;
    held += outputs_;
    if (shape_.recompute.inverts) break;
  }
  return held;
}

// Whether Y of the block below is made by inversion, projection by projection, as Y of this block
// goes.
bool StepMemory::inverts_below(size_t layer) const {
  return shape_.recompute.inverts && rebuilt_outputs(layer) > 0;
}

// Gradients from above, of the residual stream, and of whichever part of the block needs most. Of
// the gradients of the outputs below, and of outputs inverted on the way, those that are made by
// then.
int64_t StepMemory::in_backward(size_t layer) const {
  const int64_t C = config_.hidden_size, F = config_.ffn_size, kv = out(config_, Projection::kK);
  const bool gives_down = layer > 0 && outputs_ > 0;
  const int64_t above = layer + 1 < plan_.size() ? outputs_ : 0;
  // Beside the graph, Y of q and k where that holds them rotated.
  const int64_t raw = rotates_again(layer) ? 0 : C + kv;
  // Y of down on both sides of its inversion.
  const int64_t inverted_in_mlp = inverts_below(layer) ? size_ * (raw + 2 * C) : 0;
  // Below, Y of o, down, gate and up.
  const int64_t inverted_by_attention = inverts_below(layer) ? size_ * (raw + 2 * C + 2 * F) : 0;
  const int64_t mlp = size_ * (3 * F + (gives_down ? C : 0)) + inverted_in_mlp;
  // The gradients of q, k, v and of their result, and what is made again of q, k and v. Gate, up
  // and what attention added are gone by then.
  const int64_t again =
      (rotates_again(layer) ? C + kv : 0) + (spreads_ && can_hold_attention_ ? 2 * C + 2 * kv : 0);
  const int64_t attention = size_ * ((spreads_ ? 4 * C : 2 * C + 2 * kv) + again) +
                            (gives_down ? size_ * (2 * C + 2 * F) : 0) + inverted_by_attention -
                            size_ * (2 * F + kept_products(config_) + C);
  return above + size_ * 2 * C + std::max(mlp, attention);
}

int64_t StepMemory::working_set(size_t layer) const {
  const int64_t replayed = inverts_below(layer) ? 0 : rebuilt_outputs(layer);
  const int64_t set = replayed + in_backward(layer);
  if (plan_[layer].graph) return set;
  // The graph is made on top of what was kept.
  const ActivationCounts held = kept(layer);
  return set + graph(layer) - held.total();  // Y is let go: what the graph needs, it holds itself
}

// What a unit's gradients add when they have been made and taken over.
int64_t StepMemory::taken(const StateMemory::Unit& unit) const {
  return state_.keeps_made ? unit.made : unit.kept;
}

// Buffers in which gradients travel when those of `unit` have set off.
int64_t StepMemory::in_transit(size_t unit) const {
  int64_t bytes = 0;
  const size_t end = std::min(unit + state_.units_in_transit, state_.units.size());
  for (; unit < end; ++unit) bytes += state_.units[unit].in_transit;
  return bytes;
}

// Beside what stays, for the moment in which it is made.
int64_t StepMemory::passing(size_t layer) const {
  if (state_.keeps_made) return 0;
  const StateMemory::Unit& unit = state_.units[layer + 1];
  return plan_[layer].graph ? unit.largest : unit.made;
}

// Gathered weights while block `layer` is differentiated: its own, those of the next below, and the
// same again where blocks below are replayed.
int64_t StepMemory::gathered(size_t layer) const {
  const int64_t own = state_.units[layer + 1].gathered, next = state_.units[layer].gathered;
  const bool replays = !shape_.recompute.inverts && rebuilt_outputs(layer) > 0;
  return (replays ? 2 : 1) * (layer == 0 ? own : own + next);
}

void StepMemory::count_activations(MemoryCounts& memory) const {
  ActivationCounts& all = memory.activations;
  // The final norm's input; the gradient at its result.
  all.head = tokens_ * (size_ * 2 * config_.hidden_size + kFp32);
  for (size_t layer = 0; layer < plan_.size(); ++layer) {
    const ActivationCounts block = kept(layer);
    all.inputs += tokens_ * block.inputs;
    all.products += tokens_ * block.products;
    all.outputs += tokens_ * block.outputs;
    all.attention += tokens_ * block.attention;
    all.graphs += tokens_ * block.graphs;
    if (plan_[layer].graph) memory.weight_copies += weight_copy(layer);
  }
}

MemoryCounts StepMemory::count() const {
  MemoryCounts memory;
  const StateMemory::Unit &embedding = state_.units.front(), &head = state_.units.back();
  memory.weights = state_.weights + state_.masters;
  memory.optimizer = state_.moments;
  memory.gradients = state_.gradients;
  for (const auto& unit : state_.units) memory.gradients += taken(unit);
  const int64_t head_matrix = config_.vocab_size * config_.hidden_size;
  memory.head_gradient = kFp32 * head_matrix;
  const int64_t rows = default_chunk_rows(tokens_, config_.vocab_size, shape_.on_cpu,
                                          shape_.bf16 ? torch::kBFloat16 : torch::kFloat32);
  memory.logits_chunk = size_ * rows * config_.vocab_size;
  count_activations(memory);

  // The head: one chunk of logits, and of its matrix where it has to be cast, and of a chunk's
  // gradient of it where that is not added in fp32.
  int64_t live =
      memory.activations.total() + memory.weight_copies + memory.head_gradient + state_.gradients;
  int64_t most_buffers = config_.tie_embeddings ? embedding.gathered : head.gathered;
  int64_t most =
      live + memory.logits_chunk + head_copies(rows) * size_ * head_matrix + most_buffers;
  // A tied one's gradient waits for that of the embedding.
  if (!config_.tie_embeddings) {
    live += taken(head);
    if (!state_.keeps_made) most = std::max(most, live + in_transit(plan_.size() + 1));
    live -= memory.head_gradient;
  }

  // Backward: activations go, gradients come.
  int64_t stored = memory.stored_peak = memory.activations.total() - memory.activations.head;
  for (size_t layer = plan_.size(); layer-- > 0;) {
    const StateMemory::Unit& unit = state_.units[layer + 1];
    const int64_t outputs = tokens_ * kept(layer).outputs,
                  kept_here = tokens_ * kept(layer).total();
    const int64_t working = tokens_ * working_set(layer);
    live += taken(unit);
    if (!plan_[layer].graph) live += weight_copy(layer);
    const int64_t buffers = gathered(layer) + in_transit(layer + 1);
    most = std::max(most, live + working + passing(layer) + buffers);
    most_buffers = std::max(most_buffers, buffers);
    memory.working_set = std::max(memory.working_set, working);
    memory.stored_peak =
        std::max(memory.stored_peak, stored - outputs + tokens_ * rebuilt_outputs(layer));
    stored -= kept_here;
    live -= kept_here + weight_copy(layer);
  }
  // The embedding's gradient comes last.
  live += taken(embedding) - memory.activations.head;
  most = std::max(most, live + in_transit(0) + (state_.keeps_made ? 0 : embedding.made));
  memory.buffers = state_.buffers + std::max(most_buffers, in_transit(0));
  memory.peak = memory.weights + memory.optimizer + state_.buffers + most;
  return memory;
}

}  // namespace

bool can_hold_attention(const ModelConfig& config, const StepShape& shape) {
  return can_hold_attention(shape.on_cpu, shape.bf16 ? torch::kBFloat16 : torch::kFloat32,
                            config.head_size());
}

bool casts_weights(const StepShape& shape) {
  const int64_t rows = shape.batch * shape.sequence_length;
  return shape.bf16 && !(shape.on_cpu && rounds_weights_as_packed(torch::kBFloat16, rows));
}

MemoryCounts count_memory(const ModelConfig& config, const StepShape& shape,
                          const StateMemory& state) {
  ModelConfig wide = config;  // as rows lie in memory
  wide.ffn_size = fast_row_width(config.ffn_size, !shape.on_cpu,
                                 shape.bf16 ? torch::kBFloat16 : torch::kFloat32);
  return StepMemory(wide, shape, state).count();
}

MemoryCounts count_memory(const ModelConfig& config, const StepShape& shape) {
  return count_memory(config, shape, count_state(config, shape.bf16, shape.accumulates));
}

}  // namespace crnet
