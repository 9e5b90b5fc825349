#include "ops/carried_gradient.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/graph_task.h>

#include <atomic>
#include <utility>

#include "ops/product.h"

namespace crnet {

using torch::autograd::AutogradContext;
using torch::autograd::Node;

namespace {

constexpr const char* kSlot = "carried";  // in saved_data

struct Operators {
  std::mutex mutex;
  std::vector<detail::CarriedOf> all;  // a few
};
Operators& operators() {
  static Operators operators;
  return operators;
}

// Hooks that see the gradients of the node's outputs, or change them.
bool has_hooks(Node& node) {
  return !node.tensor_pre_hooks().empty() || !node.retains_grad_hooks().empty() ||
         !node.pre_hooks().empty() || !node.post_hooks().empty();
}

// A pass that is asked for some gradients goes through a part of the graph, and takes them there.
bool runs_unasked(Node* node) {
  const auto* const parts = torch::autograd::get_current_graph_task_exec_info();
  if (parts == nullptr || parts->empty()) return true;
  const auto found = parts->find(node);
  return found != parts->end() && found->second.needed_ && found->second.captures_ == nullptr;
}

bool are_alike(const torch::Tensor& a, const torch::Tensor& b) {
  return a.scalar_type() == b.scalar_type() && a.device() == b.device();
}

// Of the node that runs: the edge of its input `input`, where nobody but the node behind it sees
// the gradient that goes along.
torch::autograd::Edge unseen_edge(uint32_t input) {
  const auto node = torch::autograd::get_current_node();
  if (at::GradMode::is_enabled() || node == nullptr || !node->post_hooks().empty()) return {};
  const torch::autograd::Edge& edge = node->next_edge(input);
  Node* const maker = edge.function.get();
  const bool is_unseen =
      maker != nullptr && runs_unasked(maker) && maker->stream() == node->stream();
  return is_unseen ? edge : torch::autograd::Edge();
}

std::optional<OpenGradient> open_gradient(uint32_t input, const torch::Tensor& like) {
  const torch::autograd::Edge edge = unseen_edge(input);
  if (!edge.is_valid() || has_hooks(*edge.function)) return {};
  auto place = carried_to(edge.function.get());
  if (place == nullptr || !place->y_prev) return {};
  torch::Tensor y_prev = place->y_prev();
  if (!y_prev.defined() || !y_prev.is_contiguous() || !are_alike(y_prev, like)) return {};
  auto carried = place->look(
      edge.input_nr, torch::autograd::get_current_graph_task_id(), [&](const Carried& there) {
        return there.is_owned && !there.dot.defined() && there.gradient.is_contiguous() &&
               are_alike(there.gradient, like) && there.scale.scalar_type() == torch::kFloat32 &&
               there.scale.device() == like.device();
      });
  if (!carried) return {};
  return OpenGradient{std::move(*carried), std::move(y_prev), std::move(place), edge.input_nr};
}

std::atomic<int64_t> num_closed = 0;

}  // namespace

bool CarriedGradients::put(size_t output, const Carried& carried, int pass) {
  const std::lock_guard lock(mutex_);
  auto& entry = entries_.at(output);
  if (entry) return false;
  entry = Entry{pass, carried};
  return true;
}

std::optional<Carried> CarriedGradients::take(size_t output, int pass) {
  const std::lock_guard lock(mutex_);
  auto& entry = entries_.at(output);
  if (!entry || !is_of(*entry, pass)) return {};
  return std::exchange(entry, std::nullopt)->carried;
}

std::optional<Carried> CarriedGradients::look(size_t output, int pass,
                                              const std::function<bool(const Carried&)>& suits) {
  const std::lock_guard lock(mutex_);
  const auto& entry = entries_.at(output);
  if (!entry || !is_of(*entry, pass) || !suits(entry->carried)) return {};
  return entry->carried;
}

void CarriedGradients::close(size_t output, const torch::Tensor& dot) {
  const std::lock_guard lock(mutex_);
  entries_.at(output)->carried.dot = dot;
}

bool CarriedGradients::is_of(const Entry& entry, int pass) {
  return pass == kAnyPass || entry.pass == kAnyPass || entry.pass == pass;
}

CarriedGradientsPtr carried_to(Node* node) {
  const std::lock_guard lock(operators().mutex);
  for (const auto carried_of : operators().all) {
    if (auto carried = carried_of(node)) return carried;
  }
  return nullptr;
}

std::optional<Carried> take_carried(AutogradContext* ctx, size_t output) {
  return detail::attached_carried(*ctx)->take(output, torch::autograd::get_current_graph_task_id());
}

bool carry_to(Node* node, uint32_t output, const Carried& carried, int pass) {
  if (node == nullptr || has_hooks(*node)) return false;
  const auto accepted = carried_to(node);
  return accepted != nullptr && accepted->put(output, carried, pass);
}

bool carry(uint32_t input, const Carried& carried) {
  const torch::autograd::Edge edge = unseen_edge(input);
  return edge.is_valid() && carry_to(edge.function.get(), edge.input_nr, carried,
                                     torch::autograd::get_current_graph_task_id());
}

std::vector<OpenGradient> open_gradients(std::initializer_list<uint32_t> inputs,
                                         const torch::Tensor& like) {
  std::vector<OpenGradient> opened;
  for (const uint32_t input : inputs) {
    auto open = open_gradient(input, like);
    if (!open) return {};
    for (const OpenGradient& other : opened) {  // one tensor, given twice
      if (other.place == open->place && other.output == open->output) return {};
    }
    opened.push_back(std::move(*open));
  }
  return opened;
}

int64_t num_closed_gradients() {
  return num_closed;
}

void let_open(AutogradContext* ctx, std::function<torch::Tensor()> y_prev) {
  detail::attached_carried(*ctx)->y_prev = std::move(y_prev);
}

void close_gradient(const OpenGradient& open, const torch::Tensor& dot) {
  open.place->close(open.output, dot);
  ++num_closed;
}

torch::Tensor carry_on(uint32_t input, const torch::Tensor& gradient,
                       const std::optional<Carried>& carried) {
  return !carried || carry(input, *carried) ? gradient : plus_carried(gradient, *carried);
}

torch::Tensor plus_carried(const torch::Tensor& gradient, const Carried& carried) {
  const torch::Tensor product = scaled(carried.gradient, carried.scale);
  return gradient.defined() ? gradient + product : product;
}

namespace detail {

void register_operator(CarriedOf carried_of) {
  const std::lock_guard lock(operators().mutex);
  operators().all.push_back(carried_of);
}

void attach_carried(AutogradContext* ctx, size_t num_outputs) {
  ctx->saved_data[kSlot] =
      c10::IValue::make_capsule(c10::make_intrusive<CarriedGradients>(num_outputs));
}

CarriedGradientsPtr attached_carried(const AutogradContext& ctx) {
  return c10::static_intrusive_pointer_cast<CarriedGradients>(ctx.saved_data.at(kSlot).toCapsule());
}

}  // namespace detail
}  // namespace crnet
