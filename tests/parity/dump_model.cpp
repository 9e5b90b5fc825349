// Writes down what crnet computes, for parity_test.py to compare.
//
//   crnet_parity_dump DIR
//
// Reads DIR/recipe.json; writes DIR/model.safetensors, the weights, and DIR/results.safetensors:
// tokens and targets [S, B, T]; logits, loss and grad.<name> for the first batch; losses,
// grad_norms and lr [S] of S AdamW steps on one batch each; final.<name>, the weights after them.
#include <algorithm>
#include <array>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <string>
#include <vector>

#include "crnet/core/error.h"
#include "crnet/interop/safetensors.h"
#include "crnet/model/causal_lm.h"
#include "crnet/train/optimizer.h"
#include "crnet/train/run_config.h"

namespace {

using torch::Tensor;

constexpr int64_t kSteps = 10;
constexpr int64_t kBatch = 3;
constexpr int64_t kLength = 29;
constexpr double kPeakLearningRate = 1e-3;

// Both signs, zero, and nothing that repeats with the seven projections of a block.
constexpr std::array<double, 8> kBetas = {0.9, -0.7, 1.1, 0.0, 0.5, -1.2, 1.0, 0.3};

/// Moves norms and betas away from the ones that they start as: a factor of one hides mistakes.
void scatter(crnet::CausalLM& model) {
  torch::NoGradGuard no_grad;
  torch::manual_seed(1);
  size_t num_betas = 0;
  for (auto& item : model->named_parameters()) {
    Tensor& parameter = item.value();
    if (parameter.dim() == 0) parameter.fill_(kBetas[num_betas++ % kBetas.size()]);
    if (parameter.dim() == 1) parameter.add_(torch::randn_like(parameter), 0.2);
  }
}

void append(crnet::NamedTensors& to, const std::string& prefix, const std::string& name,
            const Tensor& tensor) {
  to.emplace_back(prefix + name, tensor.detach().clone());
}

/// Logits, loss and gradients of the first batch.
void dump_first_step(crnet::CausalLM& model, const Tensor& tokens, const Tensor& targets,
                     crnet::NamedTensors& results) {
  {
    torch::NoGradGuard no_grad;
    append(results, "", "logits", model->forward(tokens[0]));
  }
  const Tensor loss = model->loss(tokens[0], targets[0]);
  loss.backward();
  append(results, "", "loss", loss);
  for (const auto& item : model->named_parameters()) {
    append(results, "grad.", item.key(), item.value().grad());
  }
}

void dump_training(crnet::CausalLM& model, const Tensor& tokens, const Tensor& targets,
                   const crnet::OptimizerConfig& config, crnet::NamedTensors& results) {
  crnet::AdamW optimizer(model->named_parameters(), config);
  std::vector<double> losses, norms, rates;
  for (int64_t step = 0; step < kSteps; ++step) {
    model->zero_grad();
    const Tensor loss = model->loss(tokens[step], targets[step]);
    loss.backward();
    losses.push_back(loss.item<double>());
    norms.push_back(optimizer.clip_grad_norm(config.clip_norm));
    rates.push_back(kPeakLearningRate * std::min<double>(step + 1, kSteps - step) / (kSteps / 2));
    optimizer.step(rates.back());
  }
  append(results, "", "losses", torch::tensor(losses, torch::kFloat64));
  append(results, "", "grad_norms", torch::tensor(norms, torch::kFloat64));
  append(results, "", "lr", torch::tensor(rates, torch::kFloat64));
  for (const auto& item : model->named_parameters()) {
    append(results, "final.", item.key(), item.value());
  }
}

void dump(const std::filesystem::path& folder) {
  crnet::RunConfig config = crnet::load_run_config((folder / "recipe.json").string()).config;
  config.model.low_rank_init = crnet::LowRankInit::kProduct;  // with B = 0, A would have no effect
  crnet::CausalLM model(config.model);
  crnet::initialize(*model, /*seed=*/7);
  scatter(model);

  crnet::NamedTensors weights;
  for (const auto& item : model->named_parameters()) append(weights, "", item.key(), item.value());
  crnet::save_safetensors(folder / "model.safetensors", weights, {{"format", "pt"}});

  const Tensor tokens =
      torch::randint(config.model.vocab_size, {kSteps, kBatch, kLength}, torch::kInt64);
  Tensor targets =
      torch::randint(config.model.vocab_size, {kSteps, kBatch, kLength}, torch::kInt64);
  targets.masked_fill_(torch::rand(targets.sizes()) < 0.1, -100);
  crnet::NamedTensors results = {{"tokens", tokens}, {"targets", targets}};
  dump_first_step(model, tokens, targets, results);
  dump_training(model, tokens, targets, config.optimizer, results);
  crnet::save_safetensors(folder / "results.safetensors", results);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: crnet_parity_dump DIR\n");
    return 2;
  }
  try {
    dump(argv[1]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
