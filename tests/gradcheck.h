// Gradients against finite differences, and closeness in the norm.
#pragma once

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <functional>
#include <string>
#include <vector>

namespace crnet::testing {

/// ‖a − b‖ / ‖b‖ in fp64; ‖a‖ where b is zero.
inline double relative_error(const torch::Tensor& a, const torch::Tensor& b) {
  const auto wide_a = a.detach().cpu().to(torch::kFloat64);
  const auto wide_b = b.detach().cpu().to(torch::kFloat64);
  const double norm = wide_b.norm().item<double>();
  const double difference = (wide_a - wide_b).norm().item<double>();
  return norm > 0 ? difference / norm : difference;
}

/// Compares d(f · w)/d(inputs), for a fixed random w, with central differences. All inputs are fp64
/// leaves. With step h = 1e-6 the truncation error is about h² and the rounding error about
/// 1e-16 / h, so 1e-7 relative is what correct gradients reach with room.
inline void expect_gradients_match(const std::function<torch::Tensor()>& f,
                                   std::vector<torch::Tensor> inputs, double tolerance = 1e-7) {
  const torch::Tensor weights = torch::randn_like(f()).detach();
  const auto value = [&] { return (f() * weights).sum(); };
  const auto gradients = torch::autograd::grad({value()}, inputs);
  const torch::NoGradGuard no_grad;
  constexpr double kStep = 1e-6;
  for (size_t i = 0; i < inputs.size(); ++i) {
    torch::Tensor numeric = torch::zeros_like(inputs[i]);
    auto flat = inputs[i].data().view({-1}), out = numeric.view({-1});
    for (int64_t j = 0; j < flat.numel(); ++j) {
      const double at = flat[j].item<double>();
      flat[j] = at + kStep;
      const double above = value().item<double>();
      flat[j] = at - kStep;
      const double below = value().item<double>();
      flat[j] = at;
      out[j] = (above - below) / (2 * kStep);
    }
    // The value's own rounding, 1e-16 of something near 1, over the step: 1e-10 an entry.
    const double noise = 1e-9 * std::sqrt(static_cast<double>(numeric.numel()));
    EXPECT_LT((gradients[i] - numeric).norm().item<double>(),
              tolerance * numeric.norm().item<double>() + noise)
        << "input " << i;
  }
}

inline torch::Tensor leaf(torch::Tensor t) {
  return t.detach().clone().requires_grad_();
}

/// Runs f on fresh leaves cast to `dtype`; returns its value and the inputs' gradients under a
/// fixed output weight. The reference for a fused operator is the plain one in fp64.
struct ValueAndGradients {
  torch::Tensor value;
  std::vector<torch::Tensor> gradients;
};
inline ValueAndGradients evaluate(
    const std::function<torch::Tensor(const std::vector<torch::Tensor>&)>& f,
    const std::vector<torch::Tensor>& inputs, const torch::Tensor& output_gradient) {
  std::vector<torch::Tensor> leaves;
  for (const auto& input : inputs) leaves.push_back(leaf(input));
  const torch::Tensor y = f(leaves);
  return {y.detach(), torch::autograd::grad({y}, leaves, {output_gradient.to(y.dtype())})};
}

inline std::vector<torch::Tensor> to_double(const std::vector<torch::Tensor>& inputs) {
  std::vector<torch::Tensor> wide;
  for (const auto& input : inputs) wide.push_back(input.to(torch::kFloat64));
  return wide;
}

/// What tests that are about arithmetic run on: the CPU, and a GPU where there is one.
inline std::vector<torch::Device> devices() {
  std::vector<torch::Device> all = {torch::kCPU};
  if (torch::cuda::is_available()) all.emplace_back(torch::kCUDA, 0);
  return all;
}

inline std::vector<torch::Tensor> to_device(const std::vector<torch::Tensor>& tensors,
                                            torch::Device device) {
  std::vector<torch::Tensor> moved;
  for (const auto& tensor : tensors) moved.push_back(tensor.to(device));
  return moved;
}

/// A fused operator on every device against its plain twin in fp64 on the CPU, in value and every
/// gradient.
inline void expect_fused_matches_plain(
    const std::function<torch::Tensor(const std::vector<torch::Tensor>&)>& fused,
    const std::function<torch::Tensor(const std::vector<torch::Tensor>&)>& reference,
    const std::vector<torch::Tensor>& inputs, double tolerance) {
  const auto dy = torch::randn_like(reference(to_double(inputs)));
  const auto narrow_dy = dy.to(inputs[0].dtype());
  const auto expected = evaluate(reference, to_double(inputs), narrow_dy.to(torch::kFloat64));
  for (const auto& device : devices()) {
    const auto got = evaluate(fused, to_device(inputs, device), narrow_dy.to(device));
    EXPECT_LT(relative_error(got.value, expected.value), tolerance) << "value, " << device;
    for (size_t i = 0; i < inputs.size(); ++i) {
      EXPECT_EQ(got.gradients[i].scalar_type(), inputs[i].scalar_type());
      EXPECT_LT(relative_error(got.gradients[i], expected.gradients[i]), tolerance)
          << "input " << i << ", " << device;
    }
  }
}

/// A few roundings of the dtype: relative, in the norm.
inline double tolerance_of(torch::ScalarType dtype) {
  return dtype == torch::kBFloat16 ? 1e-2 : 2e-6;
}

}  // namespace crnet::testing
