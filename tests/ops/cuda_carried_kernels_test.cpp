// The CUDA kernels around the cross-layer path, run on the CPU by an emulation as in
// cuda_kernels_test.cpp: sums with what is carried, as two kernels after each other make them.
#include "ops/cuda_emulation.h"
// Then the kernels.
#include "ops/cuda/low_rank_residual.cu"
#include "ops/cuda/rope.cu"
#include "ops/cuda/swiglu.cu"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "crnet/ops/low_rank_residual.h"
#include "crnet/ops/rope.h"
#include "ops/cuda_kernel_cases.h"

namespace crnet {
namespace {

namespace kernels = cuda_emulation;
using testing::data;
using testing::expect_close;
using testing::Output;
using testing::over_elements;
using testing::run;
using testing::shifted;
using testing::Sizes;
using testing::Tensors;
using testing::with_element;
using torch::Tensor;

TEST(CudaKernels, SignedScaleIsThatOfTheOperator) {
  for (const float value : {0.0f, -0.0f, 0.5f, -0.5f, -1e-9f}) {
    const Tensor beta = torch::full({}, value);
    const auto got = run({{{2}, torch::kFloat32}}, 0, [&](const Tensors& out) {
      kernels::signed_scale(data<float>(beta), 1e-6f, data<float>(out[0]), {});
    });
    EXPECT_TRUE(torch::equal(got[0][0], signed_scale(beta, 1e-6))) << value;
    EXPECT_EQ(got[0][1].item<float>(), 1);
  }
}

struct CrossLayerCase {
  CrossLayerPass pass;
  bool dots;
};

// Both results of a pass over shifted memory, against fp64.
void check_cross_layer(const CrossLayerCase& asked, torch::ScalarType dtype, int64_t shift,
                       int64_t count) {
  const Tensor dy = shifted(torch::randn({count}).to(dtype), shift);
  const Tensor y_prev = torch::rand({count}).to(dtype), c = torch::full({}, -1.003f);
  const Tensor before = torch::randn({count}).to(dtype);
  Tensor partial = torch::full({kernels::kDotPartials}, NAN);
  const auto got = run({{{count}, dtype}, {{}, torch::kFloat32}}, shift, [&](const Tensors& out) {
    out[0].copy_(before);
    out[1].fill_(7);
    with_element(dtype, [&](auto element) {
      using T = decltype(element);
      kernels::cross_layer(asked.pass, data<T>(dy), asked.dots ? data<T>(y_prev) : nullptr,
                           data<float>(c), data<T>(out[0]), data<float>(partial),
                           data<float>(out[1]), count, {});
    });
  });
  const Tensor wide = dy.to(torch::kFloat32);
  const Tensor sum =
      asked.pass == CrossLayerPass::kAdd ? wide + c * before.to(torch::kFloat32) : wide;
  const Tensor expected = asked.pass == CrossLayerPass::kDot     ? before
                          : asked.pass == CrossLayerPass::kScale ? (wide * c).to(dtype)
                                                                 : sum.to(dtype);
  expect_close(got[0], expected, dtype);
  const Tensor terms = sum.to(torch::kFloat64) * y_prev;
  const double dot = asked.dots ? terms.sum().item<double>() : 7;
  EXPECT_NEAR(got[1].item<double>(), dot, 1e-6 * terms.abs().sum().item<double>());
}

TEST(CudaKernels, CrossLayerPassesAreThoseOfThePlainOperators) {
  over_elements([](torch::ScalarType dtype, int64_t shift) {
    for (const CrossLayerCase asked :
         {CrossLayerCase{CrossLayerPass::kDot, true}, CrossLayerCase{CrossLayerPass::kScale, true},
          CrossLayerCase{CrossLayerPass::kAdd, true},
          CrossLayerCase{CrossLayerPass::kAdd, false}}) {
      for (const int64_t count : {0, 1, 3, 31, 32, 33, 2051, 40007}) {
        // Nothing lies at a null pointer, which in kAdd asks for no sum.
        if (count == 0 && asked.pass == CrossLayerPass::kAdd) continue;
        SCOPED_TRACE(::testing::Message() << "pass " << static_cast<int>(asked.pass) << ", "
                                          << count << " elements, dots " << asked.dots);
        check_cross_layer(asked, dtype, shift, count);
      }
    }
  });
}

/// What two kernels after each other make of `own` and of what was carried to it: the sum to the
/// bit, and its dot with y_prev but for the order.
void expect_carried_sum(const Tensor& sum, const Tensor& dot, const Tensor& own,
                        const Tensor& carried, const Tensor& y_prev, const Tensor& c) {
  const Tensor partial = torch::empty({kernels::kDotPartials}), expected_dot = torch::empty({});
  const Tensor expected = carried.clone();
  with_element(own.scalar_type(), [&](auto element) {
    using T = decltype(element);
    kernels::cross_layer(CrossLayerPass::kAdd, data<T>(own), data<T>(y_prev), data<float>(c),
                         data<T>(expected), data<float>(partial), data<float>(expected_dot),
                         own.numel(), {});
  });
  EXPECT_TRUE(torch::equal(sum, expected));
  const double size = (expected.to(torch::kFloat64) * y_prev).abs().sum().item<double>();
  EXPECT_NEAR(dot.item<double>(), expected_dot.item<double>(), 1e-6 * size);
}

TEST(CudaKernels, SwigluAddsWhatIsCarriedToItsGradients) {
  over_elements([](torch::ScalarType dtype, int64_t shift) {
    for (const int64_t count : {1, 3, 33, 2051, 40007}) {
      SCOPED_TRACE(::testing::Message() << count << " elements");
      const auto random = [&] { return torch::randn({count}).to(dtype); };
      const Tensor gate = shifted(random(), shift), up = random(), dy = random();
      const Tensors carried = {random(), random()}, y_prev = {random(), random()};
      const Tensors c = {torch::full({}, 0.9f), torch::full({}, -1.1f)};
      const Tensor partial = torch::full({2, kernels::kDotPartials}, NAN);
      const Output like_gate{{count}, dtype};
      const Output sum{{}, torch::kFloat32};
      const auto got = run(
          {like_gate, like_gate, like_gate, sum, sum, like_gate, like_gate, like_gate}, shift,
          [&](const Tensors& out) {
            out[0].copy_(dy);
            out[1].copy_(carried[0]);
            out[2].copy_(carried[1]);
            out[5].copy_(dy);
            with_element(dtype, [&](auto element) {
              using T = decltype(element);
              kernels::swiglu_backward_carried<T>(
                  data<T>(out[0]), data<T>(gate), data<T>(up),
                  {data<T>(y_prev[0]), data<float>(c[0])}, {data<T>(y_prev[1]), data<float>(c[1])},
                  data<T>(out[1]), data<T>(out[2]), data<float>(partial), data<float>(out[3]),
                  data<float>(out[4]), count, {});
              kernels::swiglu_backward(data<T>(out[5]), data<T>(gate), data<T>(up), data<T>(out[6]),
                                       data<T>(out[7]), /*becomes_y=*/true, count, {});
            });
          });
      EXPECT_TRUE(torch::equal(got[0], got[5]));
      for (const size_t i : {0, 1}) {
        expect_carried_sum(got[1 + i], got[3 + i], got[6 + i], carried[i], y_prev[i], c[i]);
      }
    }
  });
}

TEST(CudaKernels, RopeAddsWhatIsCarriedToItsGradient) {
  over_elements([](torch::ScalarType dtype, int64_t shift) {
    for (const int64_t size : {2, 6, 64}) {
      for (const int64_t batch : {2, 300}) {  // more tokens than blocks
        SCOPED_TRACE(::testing::Message() << batch << " sequences, heads of " << size);
        const Sizes sizes = {batch, 5, 3, size};
        const auto table = rope_table(5, size, 100.0);
        const auto random = [&] { return torch::randn(sizes).to(dtype); };
        const Tensor dy = shifted(random(), shift), carried = random(), y_prev = random();
        const Tensor c = torch::full({}, -0.8f),
                     partial = torch::full({kernels::kDotPartials}, NAN);
        const auto got =
            run({{sizes, dtype}, {{}, torch::kFloat32}, {sizes, dtype}}, shift,
                [&](const Tensors& out) {
                  out[0].copy_(carried);
                  with_element(dtype, [&](auto element) {
                    using T = decltype(element);
                    kernels::rope_backward<T>(
                        data<T>(dy), data<float>(table.cosine), data<float>(table.sine),
                        {data<T>(y_prev), data<float>(c)}, data<T>(out[0]), data<float>(partial),
                        data<float>(out[1]), 5 * batch, 5, 3, size, {});
                    kernels::rope(data<T>(dy), data<float>(table.cosine), data<float>(table.sine),
                                  data<T>(out[2]), 5 * batch, 5, 3, size, -1.0f, {});
                  });
                });
        expect_carried_sum(got[0], got[1], got[2], carried, y_prev, c);
      }
    }
  });
}

TEST(CudaKernels, SubtractAndDivideIsThatOfThePlainOperators) {
  over_elements([](torch::ScalarType dtype, int64_t shift) {
    for (const int64_t count : {0, 1, 3, 31, 32, 33, 2051}) {
      const Tensor y = shifted(torch::randn({count}).to(dtype), shift);
      const Tensor product = torch::randn({count}).to(dtype);
      const auto got = run({{{count}, dtype}}, shift, [&](const Tensors& out) {
        out[0].copy_(product);
        with_element(dtype, [&](auto element) {
          using T = decltype(element);
          kernels::subtract_and_divide(data<T>(y), data<T>(out[0]), 0.7f, count, {});
        });
      });
      const Tensor difference = y.to(torch::kFloat32) - product;
      EXPECT_TRUE(torch::equal(got[0], (difference / torch::full({}, 0.7f)).to(dtype)));
    }
  });
}

}  // namespace
}  // namespace crnet
