// What all kinds of projection have in common.
#pragma once

#include <torch/types.h>

#include <memory>
#include <vector>

#include "crnet/ops/matrix_product.h"
#include "crnet/recompute/tape.h"

namespace crnet {

/// A projection, as a product of its input with one weight and what it makes of that: projections
/// of one input are multiplied together (see project()).
class ProjectionLayer {
 public:
  virtual ~ProjectionLayer() = default;
  /// The weight that the input is multiplied with: A, or the whole matrix of a full-rank one.
  [[nodiscard]] virtual const torch::Tensor& input_weight() const = 0;
  /// kOutIn: of a whole matrix, whose product is the output.
  [[nodiscard]] virtual WeightLayout input_layout() const = 0;
  /// Where a tape holds the product; nullptr where it does not.
  [[nodiscard]] virtual torch::Tensor* held_product(TapeEntry& entry) const = 0;
  /// The output [..., out], from the product. y_prev is the same projection's output in the block
  /// below; undefined in the first. `width`: of the output's rows, as RowWidths::out.
  virtual torch::Tensor finish(const torch::Tensor& product, const torch::Tensor& y_prev,
                               TapeEntry& entry, int64_t width) const = 0;
};
using ProjectionLayerPtr = std::shared_ptr<ProjectionLayer>;

/// The outputs of projections of one x [..., in], all of one layout, called in this order. y_prev:
/// of each; empty in the first block. `widths`: of x's rows and of the outputs', where they are
/// wider than the projections' own. Throws Error where these do not fit.
std::vector<torch::Tensor> project(const std::vector<const ProjectionLayer*>& layers,
                                   const torch::Tensor& x, const std::vector<torch::Tensor>& y_prev,
                                   const RowWidths& widths = {});
/// The output of one projection of swiglu(gate, up), which is not kept.
torch::Tensor project_gated(const ProjectionLayer& layer, const torch::Tensor& gate,
                            const torch::Tensor& up, const torch::Tensor& y_prev,
                            const RowWidths& widths = {});

}  // namespace crnet
