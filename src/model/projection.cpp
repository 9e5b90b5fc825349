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

torch::Tensor FullRankLayerImpl::forward(const torch::Tensor& x, const torch::Tensor& y_prev) {
  return project({this}, x, {y_prev})[0];
}

torch::Tensor FullRankLayerImpl::finish(const torch::Tensor& product, const torch::Tensor&,
                                        TapeEntry&, int64_t) const {
  return product;
}

CoLALayerImpl::CoLALayerImpl(int64_t in, int64_t out, int64_t r, torch::Device device)
    : in(in), out(out), r(r), device(device) {
  reset();
}

void CoLALayerImpl::reset() {
  A = register_parameter("A", torch::empty({in, r}, master(device)));
  B = register_parameter("B", torch::empty({r, out}, master(device)));
}

torch::Tensor CoLALayerImpl::forward(const torch::Tensor& x, const torch::Tensor& y_prev) {
  return project({this}, x, {y_prev})[0];
}

torch::Tensor* CoLALayerImpl::held_product(TapeEntry& entry) const {
  return &entry.products.low;
}

torch::Tensor CoLALayerImpl::finish(const torch::Tensor& product, const torch::Tensor&, TapeEntry&,
                                    int64_t width) const {
  return matrix_product(torch::silu(product), B, WeightLayout::kInOut, nullptr, {.out = width});
}

ProjectionLayerPtr add_projection(torch::nn::Module& parent, const std::string& name,
                                  const ModelConfig& config, int64_t layer, Projection projection,
                                  torch::Device device) {
  const int64_t in = config.in_features(projection), out = config.out_features(projection);
  switch (config.architecture) {
    case Architecture::kLlama:
      return parent.register_module(name, FullRankLayer(in, out, device));
    case Architecture::kCoLA: {
      const int64_t r = config.low_rank(layer, projection);
      return parent.register_module(name, CoLALayer(in, out, r, device));
    }
    case Architecture::kCRNet:
      break;
  }
  const CRNetLayer made(layer_options(config, layer, projection, device));
  return parent.register_module(name, made);
}

}  // namespace crnet
