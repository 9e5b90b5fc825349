#include "crnet/train/optimizer.h"

#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_fused_adamw.h>

#include <cmath>

namespace crnet {
namespace {

using Buckets = std::vector<std::vector<TensorPiece>>;

Buckets one_bucket(const torch::OrderedDict<std::string, torch::Tensor>& parameters) {
  Buckets buckets(1);
  for (const auto& item : parameters) buckets[0].push_back(whole_piece(item.key(), item.value()));
  return buckets;
}

}  // namespace

bool has_weight_decay(const std::string& name) {
  return !name.ends_with("norm.weight") && !name.ends_with("beta") &&
         !name.ends_with("embed_tokens.weight");
}

AdamW::AdamW(const torch::OrderedDict<std::string, torch::Tensor>& parameters,
             const OptimizerConfig& config)
    : AdamW(one_bucket(parameters), config) {}

AdamW::AdamW(Buckets buckets, const OptimizerConfig& config) : config_(config) {
  for (size_t bucket = 0; bucket < buckets.size(); ++bucket) {
    Group decays{bucket, config.weight_decay, {}}, stays{bucket, 0.0, {}};
    for (auto& piece : buckets[bucket]) {
      (has_weight_decay(piece.name) ? decays : stays).members.push_back(pieces_.size());
      exp_avgs_.push_back(torch::zeros_like(piece.values));
      exp_avg_sqs_.push_back(torch::zeros_like(piece.values));
      steps_.push_back(torch::zeros({}, piece.values.options().requires_grad(false)));
      pieces_.push_back(std::move(piece));
    }
    groups_.push_back(std::move(decays));
    groups_.push_back(std::move(stays));
  }
  updates_ = torch::zeros({}, torch::kInt64);
}

double AdamW::clip_grad_norm(double max_norm, int64_t num_accumulated,
                             const std::function<double(double)>& agree) {
  std::vector<torch::Tensor> gradients;
  for (const auto& piece : pieces_) {
    if (piece.values.grad().defined()) gradients.push_back(piece.values.grad());
  }
  const auto count = static_cast<double>(num_accumulated);
  gradient_scale_ = count;
  const torch::NoGradGuard no_grad;
  double norm = 0;
  if (!gradients.empty()) {
    const auto norms = torch::stack(at::_foreach_norm(gradients)).to(torch::kFloat64);
    norm = norms.norm().item<double>() / count;
  }
  if (agree) norm = agree(norm);
  if (max_norm > 0 && norm > max_norm) gradient_scale_ = count * norm / max_norm;
  return norm;
}

void AdamW::step(double lr, const OnUpdate& on_update) {
  const torch::NoGradGuard no_grad;
  for (size_t i = 0; i < groups_.size(); ++i) {
    step_group(groups_[i], lr);
    const bool is_last = i + 1 == groups_.size() || groups_[i + 1].bucket != groups_[i].bucket;
    if (is_last && on_update) on_update(groups_[i].bucket);
  }
  updates_ += 1;
  gradient_scale_ = 1;
}

void AdamW::step_group(const Group& group, double lr) {
  std::vector<torch::Tensor> parameters, gradients, exp_avgs, exp_avg_sqs, steps;
  for (const size_t i : group.members) {
    if (!pieces_[i].values.grad().defined()) continue;
    parameters.push_back(pieces_[i].values);
    gradients.push_back(pieces_[i].values.grad());
    exp_avgs.push_back(exp_avgs_[i]);
    exp_avg_sqs.push_back(exp_avg_sqs_[i]);
    steps.push_back(steps_[i]);
  }
  if (parameters.empty()) return;
  at::_foreach_add_(steps, 1);  // on a GPU in a few launches, not one for each
  std::optional<torch::Tensor> scale;
  if (gradient_scale_ != 1) scale = torch::full({}, gradient_scale_, steps[0].options());
  at::_fused_adamw_(parameters, gradients, exp_avgs, exp_avg_sqs, {}, steps, lr, config_.beta1,
                    config_.beta2, group.weight_decay, config_.epsilon, /*amsgrad=*/false,
                    /*maximize=*/false, scale);
}

void AdamW::zero_grad() {
  gradient_scale_ = 1;
  for (auto& piece : pieces_) piece.values.mutable_grad().reset();
}

std::vector<TensorPiece> AdamW::state() const {
  std::vector<TensorPiece> state = {whole_piece("updates", updates_)};
  for (size_t i = 0; i < pieces_.size(); ++i) {
    const TensorPiece& piece = pieces_[i];
    state.push_back({"exp_avg." + piece.name, exp_avgs_[i], piece.shape, piece.begin});
    state.push_back({"exp_avg_sq." + piece.name, exp_avg_sqs_[i], piece.shape, piece.begin});
  }
  return state;
}

void AdamW::state_loaded() {
  const auto updates = static_cast<double>(updates_.item<int64_t>());
  for (auto& step : steps_) step.fill_(updates);
}

std::vector<TensorSpec> AdamW::state_specs(const std::vector<TensorSpec>& parameters) {
  std::vector<TensorSpec> specs = {{"updates", {}, torch::kInt64}};
  for (const auto& parameter : parameters) {
    specs.push_back({"exp_avg." + parameter.name, parameter.shape, parameter.dtype});
    specs.push_back({"exp_avg_sq." + parameter.name, parameter.shape, parameter.dtype});
  }
  return specs;
}

}  // namespace crnet
