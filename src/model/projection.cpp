#include "crnet/model/projection.h"

#include "crnet/model/crnet_layer.h"
#include "crnet/ops/matrix_product.h"
#include "crnet/recompute/tape.h"

namespace crnet {
namespace {

torch::TensorOptions master(torch::Device device) {
  return torch::TensorOptions().dtype(torch::kFloat32).device(device);
}

CRNetLayerOptions layer_options(const ModelConfig& config, int64_t layer, Projection projection,
                                torch::Device device) {
  return CRNetLayerOptions(config.in_features(projection), config.out_features(projection))
      .r(config.is_full_rank(layer) ? 0 : config.low_rank(layer, projection))
      .epsilon(config.beta_epsilon)
      .beta_init(config.beta_init)
      .learnable_beta(config.learnable_beta)
      .first(layer == 0)
      .low_rank_first(config.low_rank_first_block)
      .init_std(config.init_std)
      .low_rank_init(config.low_rank_init)
      .draw(false)
      .device(device);
}

}  // namespace

FullRankLayerImpl::FullRankLayerImpl(int64_t in, int64_t out, torch::Device device)
    : in(in), out(out), device(device) {
  reset();
}

void FullRankLayerImpl::reset() {
  weight = register_parameter("weight", torch::empty({out, in}, master(device)));
}

torch::Tensor FullRankLayerImpl::forward(const torch::Tensor& x, const torch::Tensor&) {
  return matrix_product(x, weight, WeightLayout::kOutIn);
}

CoLALayerImpl::CoLALayerImpl(int64_t in, int64_t out, int64_t r, torch::Device device)
    : in(in), out(out), r(r), device(device) {
  reset();
}

void CoLALayerImpl::reset() {
  A = register_parameter("A", torch::empty({in, r}, master(device)));
  B = register_parameter("B", torch::empty({r, out}, master(device)));
}

torch::Tensor CoLALayerImpl::forward(const torch::Tensor& x, const torch::Tensor&) {
  TapeEntry* const entry = Tape::next();
  torch::Tensor* const held = entry != nullptr ? &entry->products.low : nullptr;
  const torch::Tensor low = matrix_product(x, A, WeightLayout::kInOut, held);  // [..., R]
  return matrix_product(torch::silu(low), B, WeightLayout::kInOut);
}

torch::nn::AnyModule make_projection(const ModelConfig& config, int64_t layer,
                                     Projection projection, torch::Device device) {
  const int64_t in = config.in_features(projection), out = config.out_features(projection);
  switch (config.architecture) {
    case Architecture::kLlama:
      return torch::nn::AnyModule(FullRankLayer(in, out, device));
    case Architecture::kCoLA:
      return torch::nn::AnyModule(CoLALayer(in, out, config.low_rank(layer, projection), device));
    case Architecture::kCRNet:
      break;
  }
  return torch::nn::AnyModule(CRNetLayer(layer_options(config, layer, projection, device)));
}

}  // namespace crnet
