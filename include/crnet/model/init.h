// The first values of the parameters. See docs/initialisation.md for the choice and its evidence.
#pragma once

#include <torch/nn/module.h>
#include <torch/types.h>

#include <string>

#include "crnet/model/config.h"

namespace crnet {

/// Standard deviations of a low-rank pair.
struct LowRankStds {
  double A, B;
};

/// kProduct: both (init_std / √r)^½, so that the entries of A·B have std `init_std`.
/// kZero: A 1/√in, B 0.
LowRankStds low_rank_stds(int64_t in, int64_t r, double init_std, LowRankInit init);

/// Fills a tensor of any device and floating dtype with normal-like values of mean 0 that are the
/// same on every machine and for every thread count: element i is a function of (seed, stream, i)
/// by integer arithmetic alone. Each is the sum of eight 16-bit uniforms out of one Philox block,
/// scaled to std: |value| < 4.9 std, excess kurtosis −0.15.
void fill_normal(torch::Tensor tensor, double std, uint64_t seed, uint64_t stream);

/// Fills a tensor with normal-like values drawn from LibTorch's default CPU generator; a meta
/// tensor is left alone.
void draw_normal(torch::Tensor tensor, double std);

/// Sets a parameter, named as in the files (see CausalLM), from `seed` and its name: norms 1, beta
/// `beta_init`, embeddings, head and full-rank matrices normal with `init_std`, A and B as
/// `low_rank_init` says (kProduct in CoLA and in a low-rank first block).
void initialize_parameter(torch::Tensor parameter, const std::string& name,
                          const ModelConfig& config, uint64_t seed);

/// The same for every parameter of a model.
void initialize(torch::nn::Module& model, const ModelConfig& config, uint64_t seed);

}  // namespace crnet
