#include "crnet/train/optimizer.h"

#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_fused_adamw.h>

#include <cmath>

namespace crnet {
bool has_weight_decay(const std::string& name) {
  return !name.ends_with("norm.weight") && !name.ends_with("beta") &&
         !name.ends_with("embed_tokens.weight");
}

AdamW::AdamW(const torch::OrderedDict<std::string, torch::Tensor>& parameters,
             const OptimizerConfig& config)
    : config_(config), groups_{{config.weight_decay, {}}, {0.0, {}}} {
  for (const auto& item : parameters) {
    groups_[has_weight_decay(item.key()) ? 0 : 1].members.push_back(parameters_.size());
    names_.push_back(item.key());
    parameters_.push_back(item.value());
    exp_avgs_.push_back(torch::zeros_like(item.value()));
    exp_avg_sqs_.push_back(torch::zeros_like(item.value()));
    steps_.push_back(torch::zeros({}, item.value().options().requires_grad(false)));
  }
  updates_ = torch::zeros({}, torch::kInt64);
}

double AdamW::clip_grad_norm(double max_norm, int64_t num_accumulated,
                             const std::function<double(double)>& agree) {
  std::vector<torch::Tensor> gradients;
  for (const auto& p : parameters_) {
    if (p.grad().defined()) gradients.push_back(p.grad());
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

void AdamW::step(double lr) {
  const torch::NoGradGuard no_grad;
  for (const auto& group : groups_) step_group(group, lr);
  updates_ += 1;
  gradient_scale_ = 1;
}

void AdamW::step_group(const Group& group, double lr) {
  std::vector<torch::Tensor> parameters, gradients, exp_avgs, exp_avg_sqs, steps;
  for (const size_t i : group.members) {
    if (!parameters_[i].grad().defined()) continue;
    parameters.push_back(parameters_[i]);
    gradients.push_back(parameters_[i].grad());
    exp_avgs.push_back(exp_avgs_[i]);
    exp_avg_sqs.push_back(exp_avg_sqs_[i]);
    steps.push_back(steps_[i]);
    steps.back() += 1;
  }
  if (parameters.empty()) return;
  std::optional<torch::Tensor> scale;
  if (gradient_scale_ != 1) scale = torch::full({}, gradient_scale_, steps[0].options());
  at::_fused_adamw_(parameters, gradients, exp_avgs, exp_avg_sqs, {}, steps, lr, config_.beta1,
                    config_.beta2, group.weight_decay, config_.epsilon, /*amsgrad=*/false,
                    /*maximize=*/false, scale);
}

void AdamW::zero_grad() {
  gradient_scale_ = 1;
  for (auto& p : parameters_) p.mutable_grad().reset();
}

NamedTensors AdamW::state() const {
  NamedTensors tensors = {{"updates", updates_}};
  for (size_t i = 0; i < names_.size(); ++i) {
    tensors.emplace_back("exp_avg." + names_[i], exp_avgs_[i]);
    tensors.emplace_back("exp_avg_sq." + names_[i], exp_avg_sqs_[i]);
  }
  return tensors;
}

void AdamW::state_loaded() {
  const auto updates = static_cast<double>(updates_.item<int64_t>());
  for (auto& step : steps_) step.fill_(updates);
}

}  // namespace crnet
