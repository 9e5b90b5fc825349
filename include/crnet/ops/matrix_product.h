// Matrix products whose results may be held.
#pragma once

#include <torch/types.h>

#include <vector>

namespace crnet {

/// How a weight lies in memory.
enum class WeightLayout {
  kInOut,  ///< [in, out], as the factors A and B
  kOutIn,  ///< [out, in], as a full-rank projection in Hugging Face's files
};

/// Widths of rows beyond those of a weight: x has columns, and the result gets them, that stand
/// beside nothing of the weight, so they count as, and are, zeros. 0: the weight's own.
struct RowWidths {
  int64_t in = 0, out = 0;
};
/// A width for rows that are as wide as `width` or wider. In bf16 on a GPU products are several
/// times slower where rows do not begin at multiples of 16 bytes: `width` itself where it is a
/// multiple of 8, else the next multiple of that, or of 128 where the row is wide, which makes
/// whole tiles.
[[nodiscard]] int64_t fast_row_width(int64_t width, bool on_gpu, torch::ScalarType dtype);

/// Y = X W, x [..., in] → [..., out], of x's dtype; the weight may be of a wider one (fp32 masters
/// under bf16 compute) and gets a gradient of its own dtype. For the backward pass it keeps x and
/// the weight: a copy of it in x's dtype, or itself where crnet's own products round it; nothing of
/// an x that its operator makes again, as in low_rank_residual.
///
/// Where `product` is given and defined, [..., out], it is believed and nothing is multiplied;
/// where it is undefined, the result is left there, without a graph.
torch::Tensor matrix_product(const torch::Tensor& x, const torch::Tensor& weight,
                             WeightLayout layout, torch::Tensor* product = nullptr,
                             const RowWidths& widths = {});

/// Rows of x from which on several weights [in, out] are multiplied as one. With fewer most of the
/// work is reading the weights, which putting them side by side does twice more. By count; decoding
/// has one.
inline constexpr int64_t kRowsToJoin = 64;

/// The products of one x with several weights, as matrix_product() of each, but for the order of
/// sums: the gradient of x is summed within the products. Weights [in, out] are taken for the
/// narrow factors A, and multiplied as one matrix [in, Σ out] (see kRowsToJoin): results are views
/// of one tensor [..., Σ out] then. `products`, where not empty, has a place, or nullptr, for each.
std::vector<torch::Tensor> matrix_products(const torch::Tensor& x,
                                           const std::vector<torch::Tensor>& weights,
                                           WeightLayout layout,
                                           const std::vector<torch::Tensor*>& products = {},
                                           const RowWidths& widths = {});

}  // namespace crnet
