#include "crnet/model/projection_layer.h"

#include "crnet/core/error.h"
#include "crnet/core/format.h"

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

}  // namespace

std::vector<Tensor> project(const std::vector<const ProjectionLayer*>& layers, const Tensor& x,
                            const std::vector<Tensor>& y_prev, const RowWidths& widths) {
  check(layers, y_prev);
  if (layers.empty()) return {};
  std::vector<TapeEntry> unheld(layers.size());
  std::vector<TapeEntry*> entries;
  std::vector<Tensor> weights;
  std::vector<Tensor*> held;
  for (size_t i = 0; i < layers.size(); ++i) {
    // What holds nothing is not on the tape.
    const bool is_held = layers[i]->held_product(unheld[i]) != nullptr;
    TapeEntry* const next = is_held ? Tape::next() : nullptr;
    entries.push_back(next != nullptr ? next : &unheld[i]);
    weights.push_back(layers[i]->input_weight());
    held.push_back(layers[i]->held_product(*entries[i]));
  }
  const auto layout = layers[0]->input_layout();
  const int64_t product_width = layout == WeightLayout::kOutIn ? widths.out : 0;
  const auto products = matrix_products(x, weights, layout, held, {widths.in, product_width});
  std::vector<Tensor> outputs;
  for (size_t i = 0; i < layers.size(); ++i) {
    const Tensor below = y_prev.empty() ? Tensor() : y_prev[i];
    outputs.push_back(layers[i]->finish(products[i], below, *entries[i], widths.out));
  }
  return outputs;
}

}  // namespace crnet
