// What the tests of the CUDA kernels share: framed outputs, emulated runs, comparisons. Include it
// after the kernels.
#pragma once

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <functional>
#include <memory>
#include <vector>

#include "ops/cuda_emulation.h"

namespace crnet::testing {

namespace kernels = cuda_emulation;
using torch::Tensor;
using Tensors = std::vector<Tensor>;
using Sizes = std::vector<int64_t>;

/// A tensor in the middle of a larger one.
class Framed {
 public:
  /// `shift` elements more in front: 0 for memory that is aligned to 16 bytes.
  Framed(const Sizes& sizes, torch::ScalarType dtype, int64_t shift = 0)
      : count_(c10::multiply_integers(sizes)),
        all_(torch::full({count_ + 2 * kFrame + shift}, kOutside, dtype)),
        begin_(kFrame + shift) {
    inside = all_.narrow(0, begin_, count_).view(sizes).fill_(NAN);
  }
  ~Framed() {
    EXPECT_TRUE(all_.narrow(0, 0, begin_).eq(kOutside).all().item<bool>()) << "written in front";
    const int64_t end = begin_ + count_;
    EXPECT_TRUE(all_.narrow(0, end, kFrame).eq(kOutside).all().item<bool>()) << "written behind";
  }
  Framed(const Framed&) = delete;
  Framed& operator=(const Framed&) = delete;
  Framed(Framed&&) = delete;
  Framed& operator=(Framed&&) = delete;

 private:
  static constexpr int64_t kFrame = 64;
  static constexpr double kOutside = 4096;
  int64_t count_;
  Tensor all_;
  int64_t begin_;

 public:
  Tensor inside;
};

template <class T>
T* data(const Tensor& t) {
  return static_cast<T*>(t.data_ptr());
}

template <class F>
void with_element(torch::ScalarType dtype, F&& f) {
  if (dtype == torch::kFloat32) {
    f(float{});
  } else {
    f(kernels::bfloat16{});
  }
}

struct Output {
  Sizes sizes;
  torch::ScalarType dtype;
};

/// What f leaves in the outputs. f gets them in order, and the elements by which they are shifted.
inline Tensors run(const std::vector<Output>& outputs, int64_t shift,
                   const std::function<void(const Tensors&)>& f) {
  std::vector<Tensors> results;
  for (const bool backwards : {false, true}) {
    emulate_backwards() = backwards;
    std::vector<std::unique_ptr<Framed>> framed;
    Tensors inside;
    for (const auto& output : outputs) {
      framed.push_back(std::make_unique<Framed>(output.sizes, output.dtype, shift));
      inside.push_back(framed.back()->inside);
    }
    f(inside);
    auto& result = results.emplace_back();
    for (const auto& tensor : inside) {
      EXPECT_FALSE(tensor.isnan().any().item<bool>()) << "not written";
      result.push_back(tensor.clone());
    }
  }
  for (size_t i = 0; i < outputs.size(); ++i) {
    EXPECT_TRUE(torch::equal(results[0][i], results[1][i])) << "the order of threads matters";
  }
  return results[0];
}

/// A copy that starts `shift` elements behind an address that is aligned to 16 bytes.
inline Tensor shifted(const Tensor& t, int64_t shift) {
  Tensor all = torch::zeros({t.numel() + shift}, t.options());
  return all.narrow(0, shift, t.numel()).view(t.sizes()).copy_(t);
}

/// Element by element: a few roundings of it, of the typical one where sums cancel, or, where all
/// do, of what cancels there, which is near 1.
inline void expect_close(const Tensor& got, const Tensor& expected, torch::ScalarType dtype) {
  ASSERT_EQ(got.sizes(), expected.sizes());
  const double tolerance = dtype == torch::kBFloat16 ? 1e-2 : 1e-5;
  const Tensor wide = expected.detach().to(torch::kFloat64);
  const Tensor bound = tolerance * (wide.abs() + wide.square().mean().sqrt().clamp_min(0.1));
  const Tensor off = (got.to(torch::kFloat64) - wide).abs();
  EXPECT_TRUE(off.le(bound).all().item<bool>()) << "off by " << off.max().item<double>();
}

/// Over dtypes, and memory that allows packs and that does not.
inline void over_elements(const std::function<void(torch::ScalarType dtype, int64_t shift)>& f) {
  for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
    for (const int64_t shift : {0, 1}) {
      SCOPED_TRACE(::testing::Message() << dtype << ", shifted by " << shift);
      f(dtype, shift);
    }
  }
}

}  // namespace crnet::testing
