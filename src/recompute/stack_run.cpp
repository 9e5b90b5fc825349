#include "recompute/stack_run.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <utility>

#include "crnet/core/error.h"
#include "crnet/core/format.h"
#include "ops/cuda_graph.h"
#include "recompute/parameter_use.h"

namespace crnet {
namespace {

using torch::Tensor;
using torch::autograd::tensor_list;

// Without a graph, on the same memory: a held tensor with a graph would hold its own node.
Tensor held(const Tensor& t) {
  return t.variable_data();
}

Tensor leaf(const Tensor& t) {
  return t.variable_data().requires_grad_();
}

// In place of an output that is made later. Whoever reads it gets NaN, so a block that does more
// with it than StackBlock allows is found out.
Tensor placeholder_like(const Tensor& t) {
  return torch::full({}, std::nan(""), t.options()).expand(t.sizes());
}

// Where a backward pass begins. Unlike autograd's own root it may have undefined gradients: the
// operators there run all the same, with what was carried to them.
struct Roots : torch::autograd::Node {
  void add(const Tensor& result, const Tensor& gradient) {
    add_next_edge(torch::autograd::impl::gradient_edge(result));
    gradients.push_back(gradient);
  }
  tensor_list apply(tensor_list&& /*start*/) override { return std::move(gradients); }

  tensor_list gradients;
};

// Gradients of `inputs`; undefined where there is none.
tensor_list differentiate(const std::shared_ptr<Roots>& roots, const tensor_list& inputs) {
  torch::autograd::edge_list leaves;
  for (const auto& input : inputs) leaves.push_back(torch::autograd::impl::gradient_edge(input));
  const Tensor start = torch::empty({0}, inputs[0].options());
  const torch::autograd::Edge root(roots, roots->add_input_metadata(start));
  return torch::autograd::Engine::get_default_engine().execute(
      {root}, {start}, /*keep_graph=*/false, /*create_graph=*/false, /*accumulate_grad=*/false,
      leaves);
}

// Stands between a rebuilt block and the leaf in place of an output below: what is carried to it
// stays, to be carried on.
class OutputBelow : public torch::autograd::Function<OutputBelow> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* ctx, const Tensor& output) {
    ctx->set_materialize_grads(false);
    accept_carried<OutputBelow>(ctx);
    return output.variable_data();
  }
  static tensor_list backward(torch::autograd::AutogradContext* /*ctx*/,
                              const tensor_list& gradients) {
    return gradients;
  }
};

void add_root(Roots& roots, const Tensor& result, const Tensor& gradient,
              const std::optional<Carried>& carried) {
  if (!carried) {
    if (gradient.defined()) roots.add(result, gradient);
    return;
  }
  const bool is_carried = carry_to(result.grad_fn().get(), result.output_nr(), *carried);
  roots.add(result, is_carried ? gradient : plus_carried(gradient, *carried));
}

int64_t sum_of_versions(const BlockState& state) {
  int64_t sum = state.hidden._version();
  for (const Tensor& output : state.outputs) sum += output._version();
  return sum;
}

// Takes the hooks off parameters for as long as it lives. autograd::grad calls the hooks of what it
// is asked for, and the gradients that a block returns meet them again on their way on.
class HooksAside {
 public:
  explicit HooksAside(const std::vector<Tensor>& parameters)
      : parameters_(parameters), hooks_(parameters.size()) {
    for (size_t i = 0; i < hooks_.size(); ++i) swap(i);
  }
  // Backwards: a parameter may be listed twice.
  ~HooksAside() {
    for (size_t i = hooks_.size(); i-- > 0;) swap(i);
  }
  HooksAside(const HooksAside&) = delete;
  HooksAside& operator=(const HooksAside&) = delete;

 private:
  void swap(size_t i) { std::swap(hooks_[i], torch::autograd::impl::hooks(parameters_[i])); }

  const std::vector<Tensor>& parameters_;
  std::vector<std::vector<std::unique_ptr<torch::autograd::FunctionPreHook>>> hooks_;
};

[[noreturn]] void refuse(size_t block, const char* rule) {
  throw Error(format("[recompute] block %zu: expected %s (see StackBlock)", block + 1, rule));
}

}  // namespace

StackRun::StackRun(RecomputePlan plan, std::vector<StackBlock> blocks, ParameterUsePtr use,
                   std::set<BlockStack::Span> replayed, std::shared_ptr<RecomputeDrift> drift)
    : plan(std::move(plan)),
      blocks(std::move(blocks)),
      replayed(std::move(replayed)),
      use_(std::move(use)),
      records_(this->blocks.size()),
      drift_(std::move(drift)) {}

TapeEntry& StackRun::entry(size_t block, size_t projection) {
  return records_[block].tape.entries[projection];
}

Tensor& StackRun::output(size_t block, size_t projection) {
  return entry(block, projection).products.y;
}

BlockState StackRun::forward(size_t block, at::TensorList inputs) {
  Record& record = records_[block];
  const size_t num_parameters = blocks[block].parameters.size();
  const at::TensorList outputs = inputs.slice(1, inputs.size() - 1 - num_parameters);
  const BlockState below{inputs.front(), outputs.vec()};
  record.hidden = held(below.hidden);
  record.num_outputs_below = below.outputs.size();
  const auto version = sum_of_versions(below);
  const Tape::Run running(record.tape);
  const InUse in_use(use_, block, /*forward=*/true);
  BlockState above = blocks[block].forward(below);
  if (sum_of_versions(below) != version) refuse(block, "not to change its input in place");
  keep(block, below, above);
  return above;
}

// The tape holds every product now; what the plan does not want goes.
void StackRun::keep(size_t block, const BlockState& below, const BlockState& above) {
  auto& entries = records_[block].tape.entries;
  if (!above.outputs.empty() && entries.size() != above.outputs.size()) {
    refuse(block, "as many outputs as it calls CRNetLayers");
  }
  for (size_t i = 0; i < entries.size(); ++i) {
    TapeEntry& kept = entries[i];
    if (!above.outputs.empty() && !above.outputs[i].is_alias_of(kept.products.y)) {
      refuse(block, "output i to be that of the i-th CRNetLayer that it calls");
    }
    if (!above.outputs.empty() && above.outputs[i]._version() != 0) {
      refuse(block, "not to change an output in place");
    }
    if (kept.y_prev.defined() &&
        (i >= below.outputs.size() || !kept.y_prev.is_alias_of(below.outputs[i]))) {
      refuse(block, "the i-th CRNetLayer to take output i of the block below");
    }
    kept.y_prev.reset();
    if (static_cast<int64_t>(block) + 1 == checked_block) truth_.push_back(kept.products.y);
    if (!plan.blocks[block].products) kept.products.low.reset();
    // Those of the first block stay until finish_forward knows whether a replay starts from them.
    const bool may_start_replay = block == 0 && plan.inverts && !above.outputs.empty();
    if (!plan.blocks[block].outputs && !may_start_replay) kept.products.y.reset();
  }
  if (plan.blocks[block].attention) return;
  for (auto& attention : records_[block].tape.attentions) attention = {};
}

void StackRun::hold_outputs(size_t block, const BlockState& above) {
  if (block + 1 == blocks.size() || plan.blocks[block + 1].graph) return;
  auto& entries = records_[block].tape.entries;
  for (const auto& output : above.outputs) entries.emplace_back().products.y = held(output);
}

void StackRun::finish_forward() {
  if (!plan.inverts) return;
  c_ = read_scales();
  std::set<BlockStack::Span> current;  // a checkpoint may bring those of other anchors
  for (size_t block = 0; block < blocks.size(); ++block) {
    for (size_t i = 0; i < records_[block].tape.entries.size(); ++i) {
      if (plan.blocks[block].outputs || plan.blocks[block].graph) continue;
      decide(span_of(block, i), c_);
      if (is_replayed(block, i)) current.insert(span_of(block, i));
      if (block == 0 && !is_replayed(0, i)) output(0, i).reset();
    }
  }
  replayed = std::move(current);
}

// c of every projection with a block below, read from the device at once; 0 where there is none.
std::vector<std::vector<double>> StackRun::read_scales() const {
  std::vector<Tensor> betas;
  for (const auto& record : records_) {
    for (const auto& entry : record.tape.entries) {
      if (entry.beta.defined()) betas.push_back(entry.beta.detach());
    }
  }
  const MayWait for_the_scales;
  const Tensor all = betas.empty() ? Tensor() : torch::stack(betas).cpu().to(torch::kFloat64);
  std::vector<std::vector<double>> c;
  int64_t next = 0;
  for (const auto& record : records_) {
    auto& row = c.emplace_back();
    for (const auto& entry : record.tape.entries) {
      const double beta = entry.beta.defined() ? all[next++].item<double>() : 0;
      row.push_back(beta >= 0 ? beta + entry.epsilon : beta - entry.epsilon);
    }
  }
  return c;
}

// Inversion from the anchor above divides by c of block `last` + 1, then `last`, …, `first` + 1.
void StackRun::decide(const BlockStack::Span& span, const std::vector<std::vector<double>>& c) {
  if (replayed.contains(span)) return;
  double growth = 1;
  for (int64_t block = span.last; block >= span.first; --block) {
    const auto above = static_cast<size_t>(block);  // from 0
    const auto projection = static_cast<size_t>(span.projection);
    if (above >= c.size() || projection >= c[above].size()) {
      throw Error(
          format("[recompute] expected a plan that inverts to keep outputs of block %ld, above "
                 "which nothing is rebuilt, got none",
                 static_cast<long>(block)));
    }
    // Each step rounds anew, so what shrank before is no credit.
    growth = std::max(1.0, growth) / std::abs(c[above][projection]);
    if (growth <= plan.max_amplification) continue;  // false for NaN
    replayed.insert(span);
    return;
  }
}

BlockStack::Span StackRun::span_of(size_t block, size_t projection) const {
  size_t first = block, last = block;
  while (first > 0 && !plan.blocks[first - 1].outputs && !plan.blocks[first - 1].graph) --first;
  while (last + 1 < blocks.size() && !plan.blocks[last + 1].outputs) ++last;
  return {static_cast<int64_t>(first) + 1, static_cast<int64_t>(last) + 1,
          static_cast<int64_t>(projection)};
}

bool StackRun::is_replayed(size_t block, size_t projection) const {
  return !plan.inverts || replayed.contains(span_of(block, projection));
}

// Outputs of the block below, to call `block` with: kept, replayed, or to be inverted by the
// projection's own backward pass, one after the other, as Y of this block goes.
tensor_list StackRun::outputs_below(size_t block, std::vector<Later>& later) {
  std::vector<size_t> replayed_ones;
  for (size_t i = 0; i < records_[block].num_outputs_below; ++i) {
    if (output(block - 1, i).defined() || is_replayed(block - 1, i)) replayed_ones.push_back(i);
  }
  replay_up_to(block - 1, replayed_ones);
  tensor_list outputs;
  for (size_t i = 0; i < records_[block].num_outputs_below; ++i) {
    if (output(block - 1, i).defined()) {
      outputs.push_back(leaf(output(block - 1, i)));
    } else {
      later.push_back(invert_later(block, i));
      outputs.push_back(placeholder_like(output(block, i)).requires_grad_());
    }
  }
  return outputs;
}

StackRun::Later StackRun::invert_later(size_t block, size_t projection) {
  TapeEntry& e = entry(block, projection);
  e.products.y_prev = c10::make_intrusive<LaterTensor>(
      [this, block, projection, low = e.products.low, B = e.B, y = e.products.y] {
        return output(block - 1, projection) =
                   invert_low_rank_residual(low, B, y, c_[block][projection]);
      });
  return e.products.y_prev;
}

// Does nothing where the outputs are there. Block by block, so that each has its parameters in use
// once.
void StackRun::replay_up_to(size_t block, const std::vector<size_t>& projections) {
  if (projections.empty()) return;
  std::vector<size_t> starts;  // by projection: the block whose output is there
  for (const size_t i : projections) {
    size_t& start = starts.emplace_back(block);
    while (!output(start, i).defined()) {
      if (start-- == 0) throw Error("[recompute] expected kept outputs below, got none");
    }
  }
  const size_t lowest = *std::min_element(starts.begin(), starts.end());
  for (size_t next = lowest + 1; next <= block; ++next) {
    const InUse in_use(use_, next, /*forward=*/true);
    for (size_t i = 0; i < projections.size(); ++i) {
      if (next > starts[i]) replay(next, projections[i]);
    }
  }
}

void StackRun::replay(size_t block, size_t projection) {
  TapeEntry& e = entry(block, projection);
  if (!e.products.low.defined()) {
    throw Error(
        format("[recompute] expected a plan that keeps outputs or X A of block %zu, got neither",
               block + 1));
  }
  e.products.y = replay_low_rank_residual(e.products.low, e.B, output(block - 1, projection),
                                          e.beta, e.epsilon);
}

void StackRun::measure_drift(size_t block) {
  const MayWait for_the_norms;
  drift_->block = checked_block;
  drift_->relative.clear();
  for (size_t i = 0; i < truth_.size(); ++i) {
    const Tensor truth = truth_[i].to(torch::kFloat32);
    const double norm = truth.norm().item<double>();
    const double off = (output(block, i).to(torch::kFloat32) - truth).norm().item<double>();
    drift_->relative.push_back(norm > 0 ? off / norm : off);
  }
  truth_.clear();
}

tensor_list StackRun::backward(size_t block, const tensor_list& gradients,
                               const std::vector<std::optional<Carried>>& carried) {
  Record& record = records_[block];
  if (at::GradMode::is_enabled()) {
    throw Error(
        "[recompute] expected first derivatives only, got a backward pass that builds a "
        "graph; use the strategy none");
  }
  if (!record.hidden.defined()) {
    throw Error(
        "[recompute] expected one backward pass through a forward pass, got a second; use "
        "the strategy none, or go forward again");
  }

  // 1. The outputs of this block and of the one below: kept, replayed, or inverted on the way.
  const InUse in_use(use_, block, /*forward=*/false);
  if (plan.blocks[block].products) {
    std::vector<size_t> all(gradients.size() - 1);
    std::iota(all.begin(), all.end(), size_t{0});
    replay_up_to(block, all);
  }
  std::vector<Later> later;
  tensor_list inputs = {leaf(record.hidden)};
  for (const auto& output : outputs_below(block, later)) inputs.push_back(output);

  // 2. The block once more, with a graph this time. What it made is in the graph's hands then.
  const auto roots = std::make_shared<Roots>();
  BlockState below{inputs[0], {}};
  {
    RECORD_USER_SCOPE("crnet::rebuild_block");
    const torch::AutoGradMode graph(true);
    for (size_t i = 1; i < inputs.size(); ++i) {
      below.outputs.push_back(OutputBelow::apply(inputs[i]));
    }
    std::optional<Tape::Run> running;
    if (plan.blocks[block].products) running.emplace(record.tape);
    const BlockState above = blocks[block].forward(below);
    for (size_t i = 0; i < gradients.size(); ++i) {
      add_root(*roots, i == 0 ? above.hidden : above.outputs[i - 1], gradients[i], carried[i]);
    }
  }
  release(block);

  // 3. Its gradients.
  inputs.insert(inputs.end(), blocks[block].parameters.begin(), blocks[block].parameters.end());
  const HooksAside hooks(blocks[block].parameters);
  tensor_list results = differentiate(roots, inputs);
  for (uint32_t i = 0; i < below.outputs.size(); ++i) {
    const auto carried_below = carried_to(below.outputs[i].grad_fn().get())->take(0);
    results[1 + i] = carry_on(1 + i, results[1 + i], carried_below);
  }

  // 4. What no gradient came by.
  for (const auto& y_prev : later) {
    if (!y_prev->is_taken()) y_prev->take();
  }
  if (static_cast<int64_t>(block) == checked_block && !truth_.empty()) measure_drift(block - 1);
  return results;
}

// Outputs below stay: something may rebuild from them.
void StackRun::release(size_t block) {
  Record& record = records_[block];
  record.hidden.reset();
  for (auto& e : record.tape.entries) e = {};
  for (auto& attention : record.tape.attentions) attention = {};
}

}  // namespace crnet
