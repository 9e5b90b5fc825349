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
  return project({this}, x, {y_prev})[0];
}

const torch::Tensor& CRNetLayerImpl::input_weight() const {
  return is_full_rank() ? weight : A;
}

WeightLayout CRNetLayerImpl::input_layout() const {
  return is_full_rank() ? WeightLayout::kOutIn : WeightLayout::kInOut;
}

torch::Tensor* CRNetLayerImpl::held_product(TapeEntry& entry) const {
  return is_full_rank() ? &entry.products.y : &entry.products.low;
}

torch::Tensor CRNetLayerImpl::finish(const torch::Tensor& product, const torch::Tensor& y_prev,
                                     TapeEntry& entry, int64_t width) const {
  if (is_full_rank()) return product;
  if (options.first()) {
    return matrix_product(product, B, WeightLayout::kInOut, &entry.products.y, {.out = width});
  }
  entry.B = B;
  entry.beta = beta;
  entry.epsilon = options.epsilon();
  entry.y_prev = y_prev;
  return cross_layer_sum(product, B, y_prev, beta, options.epsilon(), entry.products, width);
}

void CRNetLayerImpl::pretty_print(std::ostream& stream) const {
  stream << "crnet::CRNetLayer(in=" << options.in() << ", out=" << options.out();
  if (!is_full_rank()) stream << ", r=" << options.r();
  stream << (options.first() ? ", first" : "") << ")";
}

}  // namespace crnet
