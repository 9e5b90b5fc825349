#include "train/step_products.h"

#include <algorithm>

#include "crnet/ops/linear_cross_entropy.h"
#include "crnet/ops/matrix_product.h"

namespace crnet {
namespace {

using Products = std::vector<MatrixProduct>;
using Projections = std::vector<Projection>;

void append(Products& all, const Products& more) {
  all.insert(all.end(), more.begin(), more.end());
}

// X W, or (X A) B, of projections of one X. Full-rank weights lie as [out, in], A and B as
// [in, out], and A's are multiplied as one where matrix_products() does so. `config`: with the
// widths that rows have.
Products forward_products(const ModelConfig& config, int64_t layer, const Projections& projections,
                          int64_t N) {
  const int64_t in = config.in_features(projections.front());
  const bool full_rank = config.is_full_rank(layer), joined = !full_rank && N >= kRowsToJoin;
  Products all;
  if (joined) all.push_back({N, in, 0});
  for (const Projection projection : projections) {
    const int64_t out = config.out_features(projection);
    if (full_rank) {
      all.push_back({N, in, out, false, true});
      continue;
    }
    const int64_t R = config.low_rank(layer, projection);
    if (joined) {
      all.front().columns += R;
    } else {
      all.push_back({N, in, R});
    }
    all.push_back({N, R, out});
  }
  return all;
}

// Of Y = X W: dX = dY Wᵀ, and dW = Xᵀ dY in the layout of W.
Products gradient_products(const MatrixProduct& y) {
  const MatrixProduct dx{y.rows, y.columns, y.inner, false, !y.right_transposed};
  if (y.right_transposed) return {dx, {y.columns, y.rows, y.inner, true, false}};
  return {dx, {y.inner, y.rows, y.columns, true, false}};
}

// Gradients are made chunk by chunk, in the forward pass.
Products head_products(const ModelConfig& config, int64_t N, bool on_cpu, torch::ScalarType dtype) {
  const int64_t V = config.vocab_size, chunk = default_chunk_rows(N, V, on_cpu, dtype);
  Products all;
  for (int64_t begin = 0; begin < N; begin += chunk) {
    const MatrixProduct logits{std::min(chunk, N - begin), config.hidden_size, V, false, true};
    all.push_back(logits);
    append(all, gradient_products(logits));
  }
  return all;
}

template <class Calls>
double sum_of_flops(const Calls& calls) {
  double sum = 0;
  for (const auto& call : calls) sum += call.flops();
  return sum;
}

}  // namespace

double AttentionCall::flops() const {
  const auto pairs = static_cast<double>(batch * length) * (static_cast<double>(length) + 1) / 2;
  return 3 * 4 * pairs * static_cast<double>(heads * head_size);
}

double StepProducts::flops() const {
  return sum_of_flops(products) + sum_of_flops(attentions);
}

StepProducts list_step_products(const ModelConfig& config, int64_t batch, int64_t sequence_length,
                                bool on_cpu, torch::ScalarType dtype) {
  using enum Projection;
  const int64_t N = batch * sequence_length;
  const std::vector<Projections> of_one_input = {{kQ, kK, kV}, {kO}, {kGate, kUp}, {kDown}};
  ModelConfig wide = config;
  wide.ffn_size = fast_row_width(config.ffn_size, !on_cpu, dtype);
  StepProducts step;
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    for (const auto& projections : of_one_input) {
      append(step.products, forward_products(wide, layer, projections, N));
    }
    step.attentions.push_back({batch, sequence_length, config.num_heads, config.head_size()});
  }
  const Products forward = step.products;
  append(step.products, head_products(config, N, on_cpu, dtype));
  for (auto y = forward.rbegin(); y != forward.rend(); ++y) {
    append(step.products, gradient_products(*y));
  }
  return step;
}

}  // namespace crnet
