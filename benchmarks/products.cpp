// Every different matrix product of a training step by crnet's own kernels and by LibTorch's mm, in
// fp32 and bf16 (where the processor has instructions for it): in turn within one process, medians
// over the rounds, as a Markdown table. In bf16 crnet's kernels are given fp32 weights, as in a
// step, and LibTorch's mm weights that are bf16 already. Which of the two a step takes is up to
// ops/product.h.
#include <torch/torch.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "crnet/core/error.h"
#include "crnet/core/format.h"
#include "crnet/train/device.h"
#include "crnet/train/run_config.h"
#include "ops/cpu_product.h"
#include "ops/product.h"
#include "train/step_products.h"
#include "train/timing.h"

namespace {

using crnet::MatrixProduct;
using crnet::median;
using torch::Tensor;
constexpr int kRounds = 9, kWarmUp = 1;
constexpr int64_t kBatch = 8, kLength = 256;
constexpr double kFlopsOfARound = 4e9;

bool same(const MatrixProduct& a, const MatrixProduct& b) {
  return a.rows == b.rows && a.inner == b.inner && a.columns == b.columns &&
         a.left_transposed == b.left_transposed && a.right_transposed == b.right_transposed;
}

Tensor matrix(int64_t rows, int64_t columns, bool transposed) {
  return transposed ? torch::randn({columns, rows}).t() : torch::randn({rows, columns});
}

using Rates = std::vector<double>;  // GFLOP/s, one a round

std::string ratio(const Rates& own, const Rates& libtorch) {
  Rates ratios;
  for (size_t i = 0; i < own.size(); ++i) ratios.push_back(own[i] / libtorch[i]);
  const auto [least, most] = std::minmax_element(ratios.begin(), ratios.end());
  return crnet::format("%.2f [%.2f–%.2f]", median(ratios), *least, *most);
}

// In one dtype: a cell of the table for crnet's rate, LibTorch's, and the ratio.
struct Pair {
  Pair(const MatrixProduct& p, torch::ScalarType dtype)
      : left(matrix(p.rows, p.inner, p.left_transposed).to(dtype)),
        weight(matrix(p.inner, p.columns, p.right_transposed)),
        right(weight.to(dtype)),
        out(torch::empty({p.rows, p.columns}, dtype)),
        is_gradient(p.left_transposed),
        has_twin(!crnet::is_slow_in_libtorch(torch::kCPU, dtype)) {}

  void run(const std::function<double(const std::function<void()>&)>& gflops, bool counts) {
    const double a = has_twin ? gflops([&] { at::mm_out(out, left, right); }) : 0;
    const Tensor& own_right = is_gradient ? right : weight;
    const double b = gflops([&] { crnet::cpu::multiply(out, left, own_right, {}, 0); });
    if (!counts) return;
    libtorch.push_back(a);
    own.push_back(b);
  }
  [[nodiscard]] std::string cells() const {
    if (!has_twin) return crnet::format("%.0f | – | –", median(own));
    return crnet::format("%.0f | %.0f | %s", median(own), median(libtorch),
                         ratio(own, libtorch).c_str());
  }

  Tensor left, weight, right, out;
  bool is_gradient;  // of a weight: then right is no weight
  bool has_twin;
  Rates own, libtorch;
};

void compare(const MatrixProduct& p, int64_t count) {
  Pair fp32(p, torch::kFloat32), bf16(p, torch::kBFloat16);
  const int64_t calls = std::max<int64_t>(1, static_cast<int64_t>(kFlopsOfARound / p.flops()));
  const auto gflops = [&](const std::function<void()>& f) {
    const auto begin = std::chrono::steady_clock::now();
    for (int64_t i = 0; i < calls; ++i) f();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    return static_cast<double>(calls) * p.flops() / seconds.count() * 1e-9;
  };
  for (int round = -kWarmUp; round < kRounds; ++round) {
    fp32.run(gflops, round >= 0);
    bf16.run(gflops, round >= 0);
  }
  std::printf("| %ld | %ld × %ld%s · %ld × %ld%s | %s | %s |\n", static_cast<long>(count),
              static_cast<long>(p.rows), static_cast<long>(p.inner), p.left_transposed ? " ᵀ" : "",
              static_cast<long>(p.inner), static_cast<long>(p.columns),
              p.right_transposed ? " ᵀ" : "", fp32.cells().c_str(), bf16.cells().c_str());
  std::fflush(stdout);
}

void compare_all(const std::string& file) {
  const auto model = crnet::load_run_config(file).config.model;
  auto rest =
      crnet::list_step_products(model, kBatch, kLength, /*on_cpu=*/true, torch::kFloat32).products;
  crnet::TrainConfig cpu;
  cpu.device = crnet::DeviceChoice::kCpu;
  std::printf("%s; %s, %ld × %ld tokens; GFLOP/s, median of %d; ᵀ: lies the other way round\n\n",
              crnet::describe(crnet::select_runtime(cpu)).c_str(), file.c_str(),
              static_cast<long>(kBatch), static_cast<long>(kLength), kRounds);
  std::printf("| times | product | fp32 | LibTorch's | ratio | bf16 | LibTorch's | ratio |\n");
  std::printf("|---|---|---|---|---|---|---|---|\n");
  while (!rest.empty()) {
    const MatrixProduct product = rest.front();
    const auto others =
        std::remove_if(rest.begin(), rest.end(), [&](const auto& p) { return same(p, product); });
    compare(product, rest.end() - others);
    rest.erase(others, rest.end());
  }
}

}  // namespace

int main(int argc, char** argv) {
  crnet::keep_freed_memory();
  const torch::NoGradGuard no_grad;
  try {
    compare_all(argc > 1 ? argv[1] : CRNET_SOURCE_DIR "/configs/models/crnet-60m.yaml");
  } catch (const crnet::Error& error) {
    std::fprintf(stderr, "crnet_bench_products: %s\n", error.what());
    return 1;
  }
  return 0;
}
