#include "ops/weight_product.h"

#include <algorithm>
#include <sstream>

#include "crnet/core/error.h"
#include "ops/cross_layer.h"
#include "ops/product.h"

namespace crnet {

using torch::Tensor;

int64_t fast_row_width(int64_t width, bool on_gpu, torch::ScalarType dtype) {
  constexpr int64_t kAligned = 8, kTile = 128, kWide = 16 * kTile;  // 8 of bf16 are 16 bytes
  if (!on_gpu || dtype != torch::kBFloat16 || width % kAligned == 0) return width;
  const int64_t multiple = width < kWide ? kAligned : kTile;
  return (width + multiple - 1) / multiple * multiple;
}

std::vector<int64_t> factor_sizes(const Tensor& weight, bool out_in, const RowWidths& widths) {
  const int64_t rows = out_in ? widths.out : widths.in, columns = out_in ? widths.in : widths.out;
  return {std::max(rows, weight.size(0)), std::max(columns, weight.size(1))};
}

Tensor gradient_of_product(const Tensor& own, const std::optional<Carried>& carried) {
  if (!own.defined()) return carried ? as_matrix(plus_carried(own, *carried)) : Tensor();
  const Tensor matrix = as_matrix(own).contiguous();
  return carried ? add_carried(matrix, *carried, /*y_prev=*/{}).dy : matrix;
}

void check_product(const Tensor& x, const Tensor& weight, bool out_in, const RowWidths& widths) {
  if (x.dim() >= 1 && weight.dim() == 2) {
    const int64_t in = weight.size(out_in ? 1 : 0), out = weight.size(out_in ? 0 : 1);
    if (x.size(-1) == (widths.in == 0 ? in : widths.in) && x.size(-1) >= in &&
        (widths.out == 0 || widths.out >= out)) {
      return;
    }
  }
  std::ostringstream text;
  text << "[matrix_product] expected x [..., in] and weight "
       << (out_in ? "[out, in]" : "[in, out]") << ", got " << x.sizes() << " and "
       << weight.sizes();
  if (widths.in > 0) text << " with rows of x as wide as " << widths.in;
  if (widths.out > 0) text << " with rows of the result as wide as " << widths.out;
  throw Error(text.str());
}

}  // namespace crnet
