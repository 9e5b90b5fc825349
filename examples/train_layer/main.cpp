// Trains a small model of one's own that is made of CRNetLayers: each layer from the second on adds
// a low-rank product to a learnt multiple of the output of the layer below.
//
// B batch, C width, L layers.

#include <torch/nn/functional/activation.h>
#include <torch/nn/functional/loss.h>
#include <torch/nn/modules/container/modulelist.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/adamw.h>
#include <torch/utils.h>

#include <cstdint>
#include <cstdio>

#include "crnet/model/crnet_layer.h"

namespace {

constexpr int64_t kInputs = 8;
constexpr int64_t kWidth = 64;  // C
constexpr int64_t kRank = 16;
constexpr int64_t kLayers = 4;  // L
constexpr int64_t kBatch = 256;
constexpr int kSteps = 300;
constexpr double kRequiredFall = 10.0;

/// A regressor: inputs → C, L residual blocks of one CRNetLayer each, C → one number.
class RegressorImpl : public torch::nn::Module {
 public:
  RegressorImpl() : embed_(kInputs, kWidth), head_(kWidth, 1) {
    register_module("embed", embed_);
    register_module("layers", layers_);
    register_module("head", head_);
    layers_->push_back(crnet::CRNetLayer(crnet::CRNetLayerOptions(kWidth, kWidth).first(true)));
    for (int64_t layer = 1; layer < kLayers; ++layer) {
      layers_->push_back(crnet::CRNetLayer(crnet::CRNetLayerOptions(kWidth, kWidth).r(kRank)));
    }
  }

  torch::Tensor forward(const torch::Tensor& inputs) {  // [B, kInputs]
    torch::Tensor x = embed_->forward(inputs);          // [B, C]
    torch::Tensor y;                                    // [B, C], the layer's output
    for (const auto& module : *layers_) {
      y = module->as<crnet::CRNetLayerImpl>()->forward(x, y);
      x = x + torch::nn::functional::gelu(y);
    }
    return head_->forward(x).squeeze(-1);  // [B]
  }

 private:
  torch::nn::Linear embed_;
  torch::nn::ModuleList layers_;
  torch::nn::Linear head_;
};
TORCH_MODULE(Regressor);

/// What is to be learnt: a smooth function of all inputs.
torch::Tensor target_of(const torch::Tensor& inputs) {  // [B, kInputs] → [B]
  return torch::sin(inputs.sum(-1)) + inputs.select(-1, 0) * inputs.select(-1, 1);
}

double train_step(Regressor& model, torch::optim::AdamW& optimizer) {
  const torch::Tensor inputs = torch::randn({kBatch, kInputs}) / 2;
  const torch::Tensor loss =
      torch::nn::functional::mse_loss(model->forward(inputs), target_of(inputs));
  optimizer.zero_grad();
  loss.backward();
  optimizer.step();
  return loss.item<double>();
}

}  // namespace

int main() {
  torch::manual_seed(1);
  Regressor model;
  torch::optim::AdamW optimizer(model->parameters(), torch::optim::AdamWOptions(3e-3));
  double first = 0;
  double last = 0;
  for (int step = 1; step <= kSteps; ++step) {
    last = train_step(model, optimizer);
    if (step == 1) first = last;
    if (step == 1 || step % 50 == 0) std::printf("step %3d  loss %.4f\n", step, last);
  }
  if (last * kRequiredFall > first) {
    std::fprintf(stderr, "expected the loss to fall by a factor of %.0f, got %.4f after %.4f\n",
                 kRequiredFall, last, first);
    return 1;
  }
  return 0;
}
