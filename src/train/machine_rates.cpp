#include "crnet/train/machine_rates.h"

#include <torch/cuda.h>

#include <algorithm>
#include <chrono>
#include <functional>

#include "crnet/ops/attention.h"
#include "ops/product.h"

// Shapes: N tokens, B batch, T sequence, H heads, D head size, C hidden, R low rank.

namespace crnet {
namespace {

using Clock = std::chrono::steady_clock;
using torch::Tensor;

constexpr double kBudget = 0.3;             // seconds for each rate
constexpr int64_t kTokens = 2048;           // a product of fewer runs slower
constexpr int64_t kMemoryBytes = 64 << 20;  // past every cache

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// The median of the calls that fit into the budget, after one to warm up.
double median_seconds(torch::Device device, const std::function<void()>& call) {
  const auto synchronize = [&] {
    if (device.is_cuda()) torch::cuda::synchronize();
  };
  call();
  synchronize();
  std::vector<double> times;
  const auto start = Clock::now();
  do {
    const auto begin = Clock::now();
    call();
    synchronize();
    times.push_back(seconds_since(begin));
  } while (seconds_since(start) < kBudget);
  std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2),
                   times.end());
  return times[times.size() / 2];
}

double product_flops(int64_t rows, int64_t inner, int64_t columns) {
  return 2.0 * static_cast<double>(rows) * static_cast<double>(inner) *
         static_cast<double>(columns);
}

// X [N, C] times A [C, R], and that times B [R, C]; with wide matrices R is C.
double product_rate(torch::TensorOptions options, int64_t C, int64_t R) {
  const Tensor x = torch::rand({kTokens, C}, options), A = torch::rand({C, R}, options),
               B = torch::rand({R, C}, options);
  const double seconds =
      median_seconds(options.device(), [&] { static_cast<void>(product_of(product_of(x, A), B)); });
  return 2 * product_flops(kTokens, C, R) / seconds;
}

double memory_rate(torch::TensorOptions options) {
  const Tensor x = torch::rand({kMemoryBytes / 4}, options.dtype(torch::kFloat32));
  Tensor y = torch::zeros_like(x);
  return 3.0 * kMemoryBytes / median_seconds(options.device(), [&] { y.add_(x); });
}

void measure_attention(torch::TensorOptions options, const ModelConfig& model, int64_t T,
                       MachineRates& rates) {
  const int64_t B = std::max<int64_t>(1, kTokens / T);
  const auto make = [&] {
    return torch::randn({B, T, model.num_heads, model.head_size()}, options).requires_grad_();
  };
  const Tensor q = make(), k = make(), v = make();
  const double flops =
      product_flops(B * T, 2 * model.hidden_size, 1) * (static_cast<double>(T) + 1) / 2;
  const double forward = median_seconds(options.device(), [&] {
    const torch::NoGradGuard no_grad;
    causal_attention(q, k, v);
  });
  const torch::AutoGradMode graph(true);
  const Tensor gradient = torch::randn({B, T, model.hidden_size}, options);
  const double both = median_seconds(options.device(), [&] {
    torch::autograd::grad({causal_attention(q, k, v)}, {q, k, v}, {gradient});
  });
  rates.attention_forward = flops / forward;
  rates.attention_backward = 2 * flops / std::max(both - forward, 0.1 * both);
}

int64_t typical_r(const ModelConfig& model) {
  if (model.architecture == Architecture::kLlama) return model.hidden_size;
  return model.low_rank(model.num_layers - 1, Projection::kQ);
}

}  // namespace

MachineRates measure_machine_rates(const Runtime& runtime, const ModelConfig& model,
                                   int64_t sequence_length) {
  const torch::NoGradGuard no_grad;
  const auto options = torch::TensorOptions().device(runtime.device).dtype(runtime.compute_dtype);
  MachineRates rates;
  rates.products = product_rate(options, model.hidden_size, model.hidden_size);
  rates.low_rank_products = product_rate(options, model.hidden_size, typical_r(model));
  rates.memory = memory_rate(options);
  measure_attention(options, model, sequence_length, rates);
  return rates;
}

}  // namespace crnet
