// The other two kinds of projection, with CRNetLayer's call: forward(x, y_prev). Their parameters
// are not set by construction.
#pragma once

#include <torch/nn/cloneable.h>
#include <torch/nn/modules/container/any.h>
#include <torch/nn/pimpl.h>
#include <torch/types.h>

#include <string>

#include "crnet/model/config.h"
#include "crnet/model/projection_layer.h"

namespace crnet {

/// Y = X Wᵀ. weight [out, in], fp32; no bias. y_prev is not looked at.
class FullRankLayerImpl : public torch::nn::Cloneable<FullRankLayerImpl>, public ProjectionLayer {
 public:
  FullRankLayerImpl(int64_t in, int64_t out, torch::Device device = torch::kCPU);
  torch::Tensor forward(const torch::Tensor& x, const torch::Tensor& y_prev = {});
  void reset() override;

  [[nodiscard]] const torch::Tensor& input_weight() const override { return weight; }
  [[nodiscard]] WeightLayout input_layout() const override { return WeightLayout::kOutIn; }
  [[nodiscard]] torch::Tensor* held_product(TapeEntry& entry) const override { return nullptr; }
  torch::Tensor finish(const torch::Tensor& product, const torch::Tensor& y_prev, TapeEntry& entry,
                       int64_t width) const override;

  int64_t in, out;
  torch::Device device;
  torch::Tensor weight;

 protected:
  FORWARD_HAS_DEFAULT_ARGS({1, torch::nn::AnyValue(torch::Tensor())})
};
TORCH_MODULE(FullRankLayer);

/// Y = SiLU(X A) B (CoLA, arXiv 2502.10940). A [in, r], B [r, out], fp32. y_prev is not looked at.
class CoLALayerImpl : public torch::nn::Cloneable<CoLALayerImpl>, public ProjectionLayer {
 public:
  CoLALayerImpl(int64_t in, int64_t out, int64_t r, torch::Device device = torch::kCPU);
  torch::Tensor forward(const torch::Tensor& x, const torch::Tensor& y_prev = {});
  void reset() override;

  [[nodiscard]] const torch::Tensor& input_weight() const override { return A; }
  [[nodiscard]] WeightLayout input_layout() const override { return WeightLayout::kInOut; }
  [[nodiscard]] torch::Tensor* held_product(TapeEntry& entry) const override;
  torch::Tensor finish(const torch::Tensor& product, const torch::Tensor& y_prev, TapeEntry& entry,
                       int64_t width) const override;

  int64_t in, out, r;
  torch::Device device;
  torch::Tensor A, B;

 protected:
  FORWARD_HAS_DEFAULT_ARGS({1, torch::nn::AnyValue(torch::Tensor())})
};
TORCH_MODULE(CoLALayer);

/// Makes the projection that `config` wants at this place, and registers it as a module of
/// `parent`.
ProjectionLayerPtr add_projection(torch::nn::Module& parent, const std::string& name,
                                  const ModelConfig& config, int64_t layer, Projection projection,
                                  torch::Device device);

}  // namespace crnet
