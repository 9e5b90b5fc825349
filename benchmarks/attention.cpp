// Causal attention against LibTorch's flash attention, forward and backward apart: the two in turn
// within one process; medians over the rounds, as a Markdown table. GFLOP/s count what lies on and
// below the diagonal: 4·T·(T + 1)/2·D a head forward, 2.5 times that backward.
#include <ATen/Parallel.h>
#include <torch/torch.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <vector>

#include "crnet/ops/attention.h"
#include "crnet/train/device.h"
#include "train/timing.h"

namespace {

using crnet::median;
using torch::Tensor;
using Attention = std::function<Tensor(const Tensor&, const Tensor&, const Tensor&)>;
constexpr int kRounds = 15, kWarmUp = 2;

struct Shape {
  int64_t batch, heads, length, head_size;
};

struct Times {
  std::vector<double> forward, backward, both;
};

void run(const Attention& attention, const std::vector<Tensor>& inputs, const Tensor& dy,
         Times* times) {
  Tensor y;
  const double forward =
      crnet::milliseconds(torch::kCPU, [&] { y = attention(inputs[0], inputs[1], inputs[2]); });
  const double backward =
      crnet::milliseconds(torch::kCPU, [&] { torch::autograd::grad({y}, inputs, {dy}); });
  if (times == nullptr) return;
  times->forward.push_back(forward);
  times->backward.push_back(backward);
  times->both.push_back(forward + backward);
}

Tensor libtorch_attention(const Tensor& q, const Tensor& k, const Tensor& v) {
  return at::scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2),
                                          /*attn_mask=*/{}, /*dropout_p=*/0.0, /*is_causal=*/true)
      .transpose(1, 2)
      .flatten(2);
}

Tensor crnet_attention(const Tensor& q, const Tensor& k, const Tensor& v) {
  return crnet::causal_attention(q, k, v);
}

void compare(const Shape& s, torch::ScalarType dtype) {
  std::vector<Tensor> inputs;
  for (int i = 0; i < 3; ++i) {
    inputs.push_back(
        torch::randn({s.batch, s.length, s.heads, s.head_size}).to(dtype).requires_grad_());
  }
  const Tensor dy = torch::randn({s.batch, s.length, s.heads * s.head_size}).to(dtype);
  Times ours, theirs;
  std::vector<double> ratios;
  for (int round = -kWarmUp; round < kRounds; ++round) {
    run(crnet_attention, inputs, dy, round < 0 ? nullptr : &ours);
    run(libtorch_attention, inputs, dy, round < 0 ? nullptr : &theirs);
    if (round >= 0) ratios.push_back(theirs.both.back() / ours.both.back());
  }
  const double mega_flops = 1e-6 * 2 * static_cast<double>(s.length * (s.length + 1)) *
                            static_cast<double>(s.batch * s.heads * s.head_size);
  const auto [least, most] = std::minmax_element(ratios.begin(), ratios.end());
  const double forward = median(ours.forward), backward = median(ours.backward);
  std::printf(
      "| %ld × %ld × %ld × %ld | %s | %.2f | %.2f | %.2f | %.2f | %.2f [%.2f–%.2f] | %.0f | %.0f "
      "|\n",
      static_cast<long>(s.batch), static_cast<long>(s.heads), static_cast<long>(s.length),
      static_cast<long>(s.head_size), crnet::dtype_name(dtype).c_str(), forward,
      median(theirs.forward), backward, median(theirs.backward), median(ratios), *least, *most,
      mega_flops / forward, 2.5 * mega_flops / backward);
}

// GFLOP/s of a large product in fp32.
double product_rate() {
  constexpr int64_t kRows = 2048, kWidth = 512;
  const Tensor a = torch::randn({kRows, kWidth}), b = torch::randn({kWidth, kWidth});
  std::vector<double> times;
  for (int round = 0; round < kRounds; ++round) {
    times.push_back(crnet::milliseconds(torch::kCPU, [&] { torch::mm(a, b); }));
  }
  return 1e-6 * 2 * kRows * kWidth * kWidth / median(times);
}

}  // namespace

int main() {
  crnet::keep_freed_memory();
  const auto runtime = crnet::select_runtime({});
  std::printf("%s; B × H × T × D; median of %d; torch::mm in fp32: %.0f GFLOP/s\n\n",
              crnet::describe(runtime).c_str(), kRounds, product_rate());
  std::printf(
      "| shape | dtype | forward, ms | LibTorch's | backward, ms | LibTorch's | LibTorch's both / "
      "ours | forward, GFLOP/s | backward, GFLOP/s |\n|---|---|---|---|---|---|---|---|---|\n");
  for (const auto& shape : {Shape{8, 8, 256, 64}, Shape{1, 16, 2048, 64}}) {
    for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) compare(shape, dtype);
  }
  return 0;
}
