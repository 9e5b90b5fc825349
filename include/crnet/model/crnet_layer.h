// CRNetLayer: one linear projection of a CR-Net block, usable in any LibTorch model.
#pragma once

#include <torch/nn/cloneable.h>
#include <torch/nn/modules/common.h>
#include <torch/nn/modules/container/any.h>
#include <torch/nn/pimpl.h>
#include <torch/types.h>

#include "crnet/model/config.h"
#include "crnet/model/projection_layer.h"

namespace crnet {

/// Options of a CRNetLayer.
struct CRNetLayerOptions {
  CRNetLayerOptions(int64_t in, int64_t out) : in_(in), out_(out) {}

  TORCH_ARG(int64_t, in);                   ///< input width
  TORCH_ARG(int64_t, out);                  ///< output width
  TORCH_ARG(int64_t, r) = 0;                ///< low rank; needed unless the layer is full rank
  TORCH_ARG(double, epsilon) = 1e-6;        ///< ε of c(β)
  TORCH_ARG(double, beta_init) = 1.0;       ///< β at the start
  TORCH_ARG(bool, learnable_beta) = true;   ///< false: β stays at beta_init
  TORCH_ARG(bool, first) = false;           ///< a layer of the first block: no previous output
  TORCH_ARG(bool, low_rank_first) = false;  ///< first block: X A B instead of full rank
  TORCH_ARG(double, init_std) = 0.02;       ///< std of the entries of W, or of A·B
  TORCH_ARG(LowRankInit,
            low_rank_init) = LowRankInit::kZero;  ///< how A and B are drawn after block 1
  TORCH_ARG(bool, draw) = true;  ///< false: parameters are left as they come, to be set elsewhere
  TORCH_ARG(torch::Device,
            device) = torch::kCPU;  ///< where the parameters live; kMeta: shapes only
};

/// Y_l = c(β) · Y_{l−1} + X A B, the projection of blocks l ≥ 2 (arXiv 2509.18993); in the first
/// block Y = X Wᵀ, or X A B.
///
/// Parameters, fp32: A [in, r], B [r, out], beta [] (a buffer where it is fixed); first block:
/// weight [out, in], or A and B. They are drawn from LibTorch's default generator at construction.
/// The compute dtype is the input's: bf16 inputs make bf16 products of the fp32 parameters.
class CRNetLayerImpl : public torch::nn::Cloneable<CRNetLayerImpl>, public ProjectionLayer {
 public:
  explicit CRNetLayerImpl(CRNetLayerOptions options);

  /// x [..., in] → [..., out]. y_prev [..., out] is the same projection's output in the block
  /// below, undefined in the first block (it is not looked at there). Throws crnet::Error on other
  /// shapes.
  torch::Tensor forward(const torch::Tensor& x, const torch::Tensor& y_prev = {});

  void reset() override;
  void pretty_print(std::ostream& stream) const override;

  [[nodiscard]] bool is_full_rank() const;
  [[nodiscard]] const torch::Tensor& input_weight() const override;
  [[nodiscard]] WeightLayout input_layout() const override;
  [[nodiscard]] torch::Tensor* held_product(TapeEntry& entry) const override;
  torch::Tensor finish(const torch::Tensor& product, const torch::Tensor& y_prev, TapeEntry& entry,
                       int64_t width) const override;

  CRNetLayerOptions options;
  torch::Tensor weight;  ///< [out, in]; undefined unless full rank
  torch::Tensor A, B;    ///< [in, r], [r, out]; undefined where full rank
  torch::Tensor beta;    ///< []; undefined in the first block

 protected:
  FORWARD_HAS_DEFAULT_ARGS({1, torch::nn::AnyValue(torch::Tensor())})
};
TORCH_MODULE(CRNetLayer);

}  // namespace crnet
