// Every fused operator against its plain twin, forward and backward, at the 60M shapes, on a GPU at
// those of 7B: the two in turn within one process; medians over the rounds, as a Markdown table.
#include <torch/torch.h>

#include <cxxopts.hpp>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <functional>
#include <string>
#include <vector>

#include "crnet/ops/attention.h"
#include "crnet/ops/linear_cross_entropy.h"
#include "crnet/ops/low_rank_residual.h"
#include "crnet/ops/matrix_product.h"
#include "crnet/ops/rms_norm.h"
#include "crnet/ops/rope.h"
#include "crnet/ops/swiglu.h"
#include "crnet/train/device.h"
#include "ops/product.h"
#include "train/timing.h"

namespace {

using crnet::median;
using torch::Tensor;
using Operator = std::function<Tensor()>;
constexpr int kRounds = 15, kWarmUp = 2;
constexpr int64_t kLength = 256;
// On a GPU so many calls at most, and so many milliseconds of them, follow each other before it is
// waited for: launching one takes as long as many of these operators.
constexpr int kMostCalls = 20;
constexpr double kCallsTime = 50;

struct Shape {
  int64_t hidden, heads, mlp, rank, vocabulary;
};
constexpr Shape kOnCpu{512, 8, 1376, 128, 32000}, kOnGpu{4096, 32, 11008, 1024, 32000};

struct Arguments {
  torch::Device device = torch::kCPU;
  int64_t batch = 8;
  [[nodiscard]] const Shape& shape() const { return device.is_cuda() ? kOnGpu : kOnCpu; }
};

// Of one call.
double milliseconds(const Operator& f, torch::Device device, int calls) {
  const double all = crnet::milliseconds(device, [&] {
    for (int i = 0; i < calls; ++i) {
      const Tensor y = f();
      y.backward(torch::ones_like(y));
    }
  });
  return all / calls;
}

int calls_of(const Operator& f, torch::Device device) {
  if (!device.is_cuda()) return 1;
  milliseconds(f, device, 1);  // chooses algorithms and takes memory
  return static_cast<int>(
      std::clamp<double>(kCallsTime / milliseconds(f, device, 1), 1, kMostCalls));
}

void compare(const char* name, const char* dtype, torch::Device device, const Operator& fused,
             const Operator& plain) {
  const int fused_calls = calls_of(fused, device), plain_calls = calls_of(plain, device);
  std::vector<double> fused_ms, plain_ms, ratios;
  for (int round = -kWarmUp; round < kRounds; ++round) {
    const double a = milliseconds(fused, device, fused_calls),
                 b = milliseconds(plain, device, plain_calls);
    if (round < 0) continue;
    fused_ms.push_back(a);
    plain_ms.push_back(b);
    ratios.push_back(b / a);
  }
  const auto [least, most] = std::minmax_element(ratios.begin(), ratios.end());
  std::printf("| %s | %s | %.3f | %.3f | %.2f [%.2f–%.2f] |\n", name, dtype, median(fused_ms),
              median(plain_ms), median(ratios), *least, *most);
  std::fflush(stdout);
}

// Two projections of x in each of two blocks, as a model calls them; y: their outputs below.
Tensor residuals(const Tensor& x, const std::vector<Tensor>& A, const Tensor& B,
                 std::vector<Tensor> y, const Tensor& beta) {
  for (int block = 0; block < 2; ++block) {
    const auto low = crnet::matrix_products(x, A, crnet::WeightLayout::kInOut);
    for (size_t i = 0; i < y.size(); ++i) {
      crnet::LowRankProducts products;
      y[i] = crnet::cross_layer_sum(low[i], B, y[i], beta, 1e-6, products);
    }
  }
  return y[0] + y[1];
}
Tensor plain_residuals(const Tensor& x, const std::vector<Tensor>& A, const Tensor& B,
                       std::vector<Tensor> y, const Tensor& beta) {
  for (int block = 0; block < 2; ++block) {
    for (size_t i = 0; i < y.size(); ++i) {
      y[i] = crnet::plain::low_rank_residual(x, A[i], B, y[i], beta, 1e-6);
    }
  }
  return y[0] + y[1];
}

void compare_all(const Arguments& arguments, torch::ScalarType dtype) {
  const std::string precision = crnet::dtype_name(dtype);
  const char* p = precision.c_str();
  const torch::Device on = arguments.device;
  const auto [C, H, F, R, V] = arguments.shape();
  const int64_t tokens = arguments.batch * kLength;
  const auto compare = [&](const char* name, const Operator& fused, const Operator& plain) {
    ::compare(name, p, on, fused, plain);
  };
  const auto activation = [&](std::vector<int64_t> sizes) {
    return torch::randn(sizes, on).to(dtype).requires_grad_();
  };
  const auto weight = [&](std::vector<int64_t> sizes) {
    return torch::randn(sizes, on).requires_grad_();
  };
  const Tensor x = activation({tokens, C}), y = activation({tokens, F});
  const Tensor z = activation({tokens, F}), w = weight({C});
  const std::vector<Tensor> A = {weight({C, R}), weight({C, R})};
  const Tensor B = weight({R, F}), beta = weight({});
  compare(
      "gate and up of two blocks",
      [&] {
        return residuals(x, A, B, {y, z}, beta);
      },
      [&] {
        return plain_residuals(x, A, B, {y, z}, beta);
      });
  compare(
      "RMSNorm", [&] { return crnet::rms_norm(x, w, 1e-6); },
      [&] { return crnet::plain::rms_norm(x, w, 1e-6); });
  const Tensor delta = activation({tokens, C});
  compare(
      "residual sum and RMSNorm",
      [&] {
        const auto [sum, normed] = crnet::residual_rms_norm(x, delta, w, 1e-6);
        return sum + normed;
      },
      [&] {
        const Tensor sum = x + delta;
        return sum + crnet::plain::rms_norm(sum, w, 1e-6);
      });
  compare(
      "SwiGLU", [&] { return crnet::swiglu(y, z); }, [&] { return crnet::plain::swiglu(y, z); });
  const Tensor down = weight({F, R});
  compare(
      "SwiGLU and the product with A",
      [&] { return crnet::swiglu_product(y, z, down, crnet::WeightLayout::kInOut); },
      [&] {
        const Tensor inner = crnet::plain::swiglu(y, z);
        return crnet::matrix_product(inner, down, crnet::WeightLayout::kInOut);
      });
  const auto heads = [&, H = H, D = C / H] { return activation({arguments.batch, kLength, H, D}); };
  const Tensor q = heads(), k = heads(), v = heads();
  const auto table = crnet::rope_table(kLength, C / H, 10000.0);
  const Tensor cosine = table.cosine.to(on), sine = table.sine.to(on);
  compare(
      "RoPE", [&] { return crnet::rope(q, cosine, sine); },
      [&] { return crnet::plain::rope(q, cosine, sine); });
  compare(
      "attention", [&] { return crnet::causal_attention(q, k, v); },
      [&] { return crnet::plain::causal_attention(q, k, v); });
  if (crnet::is_slow_in_libtorch(on, dtype)) {
    std::fprintf(stderr,
                 "Left out: the head in %s, which LibTorch multiplies number by number on this "
                 "processor, for minutes a round\n",
                 p);
    return;
  }
  // As after initialisation: larger logits would leave a single probability that is not zero.
  const Tensor head = torch::randn({V, C}, on).mul_(0.02).requires_grad_();
  const Tensor targets = torch::randint(V, {tokens}).to(on);
  compare(
      "head and cross entropy", [&] { return crnet::linear_cross_entropy(x, head, targets); },
      [&] { return crnet::plain::linear_cross_entropy(x, head, targets); });
}

void run(int argc, char** argv) {
  cxxopts::Options options("crnet_bench_operators", "Fused operators against plain ones.");
  // clang-format off
  options.add_options()
      ("device", "cpu or cuda", cxxopts::value<std::string>()->default_value("cpu"))
      ("batch", "sequences of 256 tokens", cxxopts::value<int64_t>()->default_value("8"))
      ("help", "print this");
  // clang-format on
  const auto parsed = options.parse(argc, argv);
  if (parsed.count("help") > 0) {
    std::printf("%s", options.help().c_str());
    return;
  }
  const Arguments arguments{torch::Device(parsed["device"].as<std::string>()),
                            parsed["batch"].as<int64_t>()};
  const Shape& shape = arguments.shape();
  auto runtime = crnet::select_runtime({});
  runtime.device = arguments.device;
  std::printf("%s; %ld tokens, C %ld, F %ld, r %ld, V %ld; forward and backward, median of %d\n\n",
              crnet::describe(runtime).c_str(), static_cast<long>(arguments.batch * kLength),
              static_cast<long>(shape.hidden), static_cast<long>(shape.mlp),
              static_cast<long>(shape.rank), static_cast<long>(shape.vocabulary), kRounds);
  std::printf(
      "| operator | dtype | fused ms | plain ms | plain / fused |\n|---|---|---|---|---|\n");
  for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) compare_all(arguments, dtype);
}

}  // namespace

int main(int argc, char** argv) {
  crnet::keep_freed_memory();
  try {
    run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "crnet_bench_operators: %s\n", error.what());
    return 1;
  }
  return 0;
}
