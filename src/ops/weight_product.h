// What the operators of a product of x with weights share.
#pragma once

#include <torch/types.h>

#include <optional>
#include <vector>

#include "crnet/ops/matrix_product.h"
#include "ops/carried_gradient.h"

namespace crnet {

/// Throws Error where x [..., in] and a weight do not fit.
void check_product(const torch::Tensor& x, const torch::Tensor& weight, bool out_in,
                   const RowWidths& widths);

/// Both layouts as [in, out].
[[nodiscard]] inline torch::Tensor in_out(const torch::Tensor& weight, bool out_in) {
  return out_in ? weight.t() : weight;
}
/// Of a weight as a factor: as wide as the rows on both sides.
[[nodiscard]] std::vector<int64_t> factor_sizes(const torch::Tensor& weight, bool out_in,
                                                const RowWidths& widths);

/// A product's own gradient and what was carried to it as [N, out], contiguous; undefined where
/// neither is there.
[[nodiscard]] torch::Tensor gradient_of_product(const torch::Tensor& own,
                                                const std::optional<Carried>& carried);

}  // namespace crnet
