#include "crnet/model/crnet_layer.h"

#include <algorithm>

#include "crnet/core/error.h"
#include "crnet/core/format.h"
#include "crnet/model/init.h"
#include "crnet/ops/low_rank_residual.h"
#include "crnet/ops/matrix_product.h"
#include "crnet/recompute/tape.h"

namespace crnet {

CRNetLayerImpl::CRNetLayerImpl(CRNetLayerOptions options) : options(std::move(options)) {
  reset();
}

bool CRNetLayerImpl::is_full_rank() const {
  return options.first() && !options.low_rank_first();
}

void CRNetLayerImpl::reset() {
  const int64_t in = options.in(), out = options.out(), r = options.r();
  const auto tensor_options =
      torch::TensorOptions().dtype(torch::kFloat32).device(options.device());
  if (in < 1 || out < 1 || (!is_full_rank() && (r < 1 || r > std::min(in, out)))) {
    throw Error(
        format("[CRNetLayer] expected in, out ≥ 1 and 1 ≤ r ≤ min(in, out), got in %ld, out "
               "%ld, r %ld",
               static_cast<long>(in), static_cast<long>(out), static_cast<long>(r)));
  }
  if (is_full_rank()) {
    weight = register_parameter("weight", torch::empty({out, in}, tensor_options));
    if (options.draw()) draw_normal(weight, options.init_std());
    return;
  }
  // Without an output below, B = 0 would leave the layer, and all above, at zero for good.
  const auto init = options.first() ? LowRankInit::kProduct : options.low_rank_init();
  const auto stds = low_rank_stds(in, r, options.init_std(), init);
  A = register_parameter("A", torch::empty({in, r}, tensor_options));
  B = register_parameter("B", torch::empty({r, out}, tensor_options));
  if (options.draw()) {
    draw_normal(A, stds.A);
    draw_normal(B, stds.B);
  }
  if (options.first()) return;
  beta = torch::full({}, options.beta_init(), tensor_options);
  beta =
      options.learnable_beta() ? register_parameter("beta", beta) : register_buffer("beta", beta);
}

torch::Tensor CRNetLayerImpl::forward(const torch::Tensor& x, const torch::Tensor& y_prev) {
  TapeEntry unheld;
  TapeEntry* const next = Tape::next();
  TapeEntry& entry = next != nullptr ? *next : unheld;
  if (!options.first()) {
    entry.B = B;
    entry.beta = beta;
    entry.epsilon = options.epsilon();
    entry.y_prev = y_prev;
    return low_rank_residual(x, A, B, y_prev, beta, options.epsilon(), entry.products);
  }
  if (is_full_rank()) return matrix_product(x, weight, WeightLayout::kOutIn, &entry.products.y);
  const torch::Tensor low = matrix_product(x, A, WeightLayout::kInOut, &entry.products.low);
  return matrix_product(low, B, WeightLayout::kInOut, &entry.products.y);
}

void CRNetLayerImpl::pretty_print(std::ostream& stream) const {
  stream << "crnet::CRNetLayer(in=" << options.in() << ", out=" << options.out();
  if (!is_full_rank()) stream << ", r=" << options.r();
  stream << (options.first() ? ", first" : "") << ")";
}

}  // namespace crnet
