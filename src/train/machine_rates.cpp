#include "crnet/train/machine_rates.h"

#include <c10/core/CachingDeviceAllocator.h>
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

constexpr double kBudget = 0.3;  // seconds for each rate

// What a rate is measured with.
struct Load {
  int64_t tokens;  // products of fewer run slower
  int64_t bytes;   // of a tensor past every cache
  int most_calls;  // between two waits for the device
};
constexpr Load kOnCpu{2048, 64 << 20, 1}, kOnGpu{8192, 1 << 30, 8};

const Load& load_on(torch::Device device) {
  return device.is_cuda() ? kOnGpu : kOnCpu;
}

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Of one call: the median of what fits into the budget, after warming up.
double median_seconds(torch::Device device, const std::function<void()>& call) {
  const auto synchronize = [&] {
    if (device.is_cuda()) torch::cuda::synchronize();
  };
  const auto timed = [&](int calls) {
    const auto begin = Clock::now();
    for (int i = 0; i < calls; ++i) call();
    synchronize();
    return seconds_since(begin) / calls;
  };
  timed(1);
  const int most = load_on(device).most_calls;
  const int calls = most == 1 ? 1 : std::clamp(static_cast<int>(kBudget / 8 / timed(1)), 1, most);
  std::vector<double> times;
  const auto start = Clock::now();
  do {
    times.push_back(timed(calls));
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
  const int64_t N = load_on(options.device()).tokens;
  const Tensor x = torch::rand({N, C}, options), A = torch::rand({C, R}, options),
               B = torch::rand({R, C}, options);
  const double seconds =
      median_seconds(options.device(), [&] { static_cast<void>(product_of(product_of(x, A), B)); });
  return 2 * product_flops(N, C, R) / seconds;
}

double memory_rate(torch::TensorOptions options) {
  const torch::Device device = options.device();
  int64_t bytes = load_on(device).bytes;
  if (device.is_cuda()) {
    const auto index = device.has_index() ? device.index() : c10::DeviceIndex(0);
    const auto free = c10::getDeviceAllocator(torch::kCUDA)->getMemoryInfo(index).first;
    bytes = std::min(bytes, static_cast<int64_t>(free) / 8);
  }
  const Tensor x = torch::rand({bytes / 4}, options.dtype(torch::kFloat32));
  Tensor y = torch::zeros_like(x);
  return 3.0 * static_cast<double>(bytes) / median_seconds(device, [&] { y.add_(x); });
}

void measure_attention(torch::TensorOptions options, const ModelConfig& model, int64_t T,
                       MachineRates& rates) {
  const int64_t B = std::max<int64_t>(1, load_on(options.device()).tokens / T);
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
  forget_measurement(runtime.device);
  return rates;
}

}  // namespace crnet
