#include "crnet/model/projection_layer.h"

#include "crnet/core/error.h"
#include "crnet/core/format.h"
#include "crnet/ops/swiglu.h"

namespace crnet {
namespace {

using torch::Tensor;

void check(const std::vector<const ProjectionLayer*>& layers, const std::vector<Tensor>& y_prev) {
  if (!y_prev.empty() && y_prev.size() != layers.size()) {
    throw Error(format("[project] expected an output below for each of %zu projections, got %zu",
                       layers.size(), y_prev.size()));
  }
  for (const auto* layer : layers) {
    if (layer->input_layout() != layers[0]->input_layout()) {
      throw Error("[project] expected projections of one kind, got weights of two layouts");
    }
  }
}

// What projections of one input multiply it with, and where the products are held.
struct Call {
  explicit Call(const std::vector<const ProjectionLayer*>& projections) : layers(projections) {
    unheld.resize(layers.size());
    for (size_t i = 0; i < layers.size(); ++i) {
      // What holds nothing is not on the tape.
      const bool is_held = layers[i]->held_product(unheld[i]) != nullptr;
      TapeEntry* const next = is_held ? Tape::next() : nullptr;
      entries.push_back(next != nullptr ? next : &unheld[i]);
      weights.push_back(layers[i]->input_weight());
      held.push_back(layers[i]->held_product(*entries[i]));
    }
  }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  [[nodiscard]] WeightLayout layout() const { return layers[0]->input_layout(); }
  // Of the products, where those are the outputs: as wide.
  [[nodiscard]] RowWidths product_widths(const RowWidths& widths) const {
    return {widths.in, layout() == WeightLayout::kOutIn ? widths.out : 0};
  }
  [[nodiscard]] std::vector<Tensor> finish(const std::vector<Tensor>& products,
                                           const std::vector<Tensor>& y_prev, int64_t width) const {
    std::vector<Tensor> outputs;
    for (size_t i = 0; i < layers.size(); ++i) {
      const Tensor below = y_prev.empty() ? Tensor() : y_prev[i];
      outputs.push_back(layers[i]->finish(products[i], below, *entries[i], width));
    }
    return outputs;
  }

  const std::vector<const ProjectionLayer*>& layers;
  std::vector<TapeEntry> unheld;
  std::vector<TapeEntry*> entries;
  std::vector<Tensor> weights;
  std::vector<Tensor*> held;
};

}  // namespace

std::vector<Tensor> project(const std::vector<const ProjectionLayer*>& layers, const Tensor& x,
                            const std::vector<Tensor>& y_prev, const RowWidths& widths) {
  check(layers, y_prev);
  if (layers.empty()) return {};
  const Call call(layers);
  const auto products =
      matrix_products(x, call.weights, call.layout(), call.held, call.product_widths(widths));
  return call.finish(products, y_prev, widths.out);
}

Tensor project_gated(const ProjectionLayer& layer, const Tensor& gate, const Tensor& up,
                     const Tensor& y_prev, const RowWidths& widths) {
  const std::vector<const ProjectionLayer*> layers = {&layer};
  const Call call(layers);
  const Tensor product = swiglu_product(gate, up, call.weights[0], call.layout(), call.held[0],
                                        call.product_widths(widths));
  return call.finish({product}, {y_prev}, widths.out)[0];
}

}  // namespace crnet
