// Every fused operator against its plain twin, forward and backward, at the 60M shapes: the two in
// turn within one process; medians over the rounds, as a Markdown table.
#include <torch/torch.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "crnet/ops/attention.h"
#include "crnet/ops/linear_cross_entropy.h"
#include "crnet/ops/low_rank_residual.h"
#include "crnet/ops/rms_norm.h"
#include "crnet/ops/rope.h"
#include "crnet/ops/swiglu.h"
#include "crnet/train/device.h"

namespace {

using torch::Tensor;
using Operator = std::function<Tensor()>;
constexpr int kRounds = 15, kWarmUp = 2;
constexpr int64_t kBatch = 8, kLength = 256, kTokens = kBatch * kLength;
constexpr int64_t kHidden = 512, kHeads = 8, kMlp = 1376, kRank = 128, kVocabulary = 32000;

double milliseconds(const Operator& f) {
  const auto begin = std::chrono::steady_clock::now();
  const Tensor y = f();
  y.backward(torch::ones_like(y));
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin)
      .count();
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

void compare(const char* name, const char* dtype, const Operator& fused, const Operator& plain) {
  std::vector<double> fused_ms, plain_ms, ratios;
  for (int round = -kWarmUp; round < kRounds; ++round) {
    const double a = milliseconds(fused), b = milliseconds(plain);
    if (round < 0) continue;
    fused_ms.push_back(a);
    plain_ms.push_back(b);
    ratios.push_back(b / a);
  }
  const auto [least, most] = std::minmax_element(ratios.begin(), ratios.end());
  std::printf("| %s | %s | %.2f | %.2f | %.2f [%.2f–%.2f] |\n", name, dtype, median(fused_ms),
              median(plain_ms), median(ratios), *least, *most);
}

void compare_all(torch::ScalarType dtype) {
  const std::string precision = crnet::dtype_name(dtype);
  const char* p = precision.c_str();
  const auto activation = [dtype](std::vector<int64_t> sizes) {
    return torch::randn(sizes).to(dtype).requires_grad_();
  };
  const auto weight = [](std::vector<int64_t> sizes) {
    return torch::randn(sizes).requires_grad_();
  };
  const Tensor x = activation({kTokens, kHidden}), y = activation({kTokens, kMlp});
  const Tensor z = activation({kTokens, kMlp}), w = weight({kHidden});
  const Tensor A = weight({kHidden, kRank}), B = weight({kRank, kMlp}), beta = weight({});
  compare(
      "low-rank residual", p, [&] { return crnet::low_rank_residual(x, A, B, y, beta, 1e-6); },
      [&] { return crnet::plain::low_rank_residual(x, A, B, y, beta, 1e-6); });
  compare(
      "RMSNorm", p, [&] { return crnet::rms_norm(x, w, 1e-6); },
      [&] { return crnet::plain::rms_norm(x, w, 1e-6); });
  compare(
      "SwiGLU", p, [&] { return crnet::swiglu(y, z); }, [&] { return crnet::plain::swiglu(y, z); });
  const auto heads = [&] { return activation({kBatch, kLength, kHeads, kHidden / kHeads}); };
  const Tensor q = heads(), k = heads(), v = heads();
  const auto table = crnet::rope_table(kLength, kHidden / kHeads, 10000.0);
  compare(
      "RoPE", p, [&] { return crnet::rope(q, table.cosine, table.sine); },
      [&] { return crnet::plain::rope(q, table.cosine, table.sine); });
  compare(
      "attention", p, [&] { return crnet::causal_attention(q, k, v); },
      [&] { return crnet::plain::causal_attention(q, k, v); });
  // As after initialisation: larger logits would leave a single probability that is not zero.
  const Tensor head = torch::randn({kVocabulary, kHidden}).mul_(0.02).requires_grad_();
  const Tensor targets = torch::randint(kVocabulary, {kTokens});
  compare(
      "head and cross entropy", p, [&] { return crnet::linear_cross_entropy(x, head, targets); },
      [&] { return crnet::plain::linear_cross_entropy(x, head, targets); });
}

}  // namespace

int main() {
  crnet::keep_freed_memory();
  const auto runtime = crnet::select_runtime({});
  std::printf("%s; %ld tokens, C %ld, F %ld, r %ld, V %ld; forward and backward, median of %d\n\n",
              crnet::describe(runtime).c_str(), static_cast<long>(kTokens),
              static_cast<long>(kHidden), static_cast<long>(kMlp), static_cast<long>(kRank),
              static_cast<long>(kVocabulary), kRounds);
  std::printf(
      "| operator | dtype | fused ms | plain ms | plain / fused |\n|---|---|---|---|---|\n");
  for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) compare_all(dtype);
  return 0;
}
