// The CUDA kernels' own sources, run on the CPU by an emulation, against the plain operators in
// fp64: values and gradients over sizes that fill packs and that do not. Every output is NaN
// before, lies within a frame that has to stay, and must be the same for any order of threads.
#include "ops/cuda_emulation.h"
// Then the kernels.
#include "ops/cuda/cross_entropy.cu"
#include "ops/cuda/rms_norm.cu"
#include "ops/cuda/rope.cu"
#include "ops/cuda/swiglu.cu"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "crnet/ops/rms_norm.h"
#include "crnet/ops/rope.h"
#include "crnet/ops/swiglu.h"
#include "gradcheck.h"
#include "ops/cuda_kernel_cases.h"

namespace crnet {
namespace {

namespace kernels = cuda_emulation;
using testing::data;
using testing::evaluate;
using testing::expect_close;
using testing::Output;
using testing::over_elements;
using testing::run;
using testing::shifted;
using testing::Sizes;
using testing::Tensors;
using testing::to_double;
using testing::with_element;
using torch::Tensor;

// A block of fewer threads than a row has packs, and rows that take more than registers hold.
const Sizes kColumns = {1, 3, 31, 32, 33, 257, 1032, 4097, 20488};

// With and without something that is added first, and its sum's other gradient.
TEST(CudaKernels, RmsNormIsThatOfThePlainOperator) {
  over_elements([](torch::ScalarType dtype, int64_t shift) {
    for (const int64_t columns : kColumns) {
      for (const bool adds : {false, true}) {
        SCOPED_TRACE(::testing::Message() << columns << " columns, adds " << adds);
        const int64_t rows = 3;
        const Tensor x = shifted(torch::randn({rows, columns}).to(dtype), shift);
        const Tensor delta = torch::randn({rows, columns}).to(dtype);
        const Tensor dy = torch::randn({rows, columns}).to(dtype), w = torch::randn({columns});
        const Tensor dsum = torch::randn({rows, columns}).to(dtype);
        const Tensor summed = adds ? x + delta : x;
        const auto expected =
            evaluate([](const Tensors& t) { return plain::rms_norm(t[0], t[1], 1e-5); },
                     to_double({summed, w}), dy.to(torch::kFloat64));
        const int64_t pieces = kernels::num_partial_rows(rows, columns);
        const auto got = run(
            {{{rows, columns}, dtype},
             {{rows}, torch::kFloat32},
             {{rows, columns}, dtype},
             {{pieces, columns}, torch::kFloat32},
             {{rows, columns}, dtype}},
            shift, [&](const Tensors& out) {
              with_element(dtype, [&](auto element) {
                using T = decltype(element);
                kernels::rms_norm(data<T>(x), adds ? data<T>(delta) : nullptr, data<float>(w),
                                  adds ? data<T>(out[4]) : nullptr, data<T>(out[0]),
                                  data<float>(out[1]), rows, columns, 1e-5f, {});
                kernels::rms_norm_backward(data<T>(dy), data<T>(summed), data<float>(w),
                                           data<float>(out[1]), adds ? data<T>(dsum) : nullptr,
                                           data<T>(out[2]), data<float>(out[3]), rows, columns, {});
              });
              if (!adds) out[4].copy_(summed);
            });
        expect_close(got[0], expected.value, dtype);
        const Tensor other = adds ? dsum.to(torch::kFloat64) : torch::zeros({}, torch::kFloat64);
        expect_close(got[2], expected.gradients[0] + other, dtype);
        expect_close(got[3].sum(0), expected.gradients[1], torch::kFloat32);
        if (adds) {
          EXPECT_TRUE(torch::equal(got[4], summed));
        }
      }
    }
  });
}

// More rows than blocks, and rows of which a thread's registers hold a part.
TEST(CudaKernels, RmsNormAddsUpTheWeightsGradientOfManyRows) {
  const int64_t rows = 10, columns = 420, blocks = 3;
  const Tensor x = torch::randn({rows, columns}), dy = torch::randn({rows, columns});
  const Tensor w = torch::randn({columns}), rstd = torch::rand({rows});
  const auto got =
      run({{{rows, columns}, torch::kFloat32}, {{blocks, columns}, torch::kFloat32}}, 0,
          [&](const Tensors& out) {
            kernels::launch(kernels::rms_norm_backward_rows<float, 2, 1, false>, blocks, 64, {},
                            data<float>(dy), data<float>(x), data<float>(w), data<float>(rstd),
                            nullptr, data<float>(out[0]), data<float>(out[1]), rows, columns);
          });
  const Tensor share = (dy * x).to(torch::kFloat64) * rstd.unsqueeze(1);
  expect_close(got[1].sum(0), share.sum(0), torch::kFloat32);
  const Tensor normed = x * rstd.unsqueeze(1), weighted = dy * w;
  const Tensor along = (weighted * normed).mean(1, true);
  expect_close(got[0], rstd.unsqueeze(1) * (weighted - normed * along), torch::kFloat32);
}

TEST(CudaKernels, RopeIsThatOfThePlainOperator) {
  over_elements([](torch::ScalarType dtype, int64_t shift) {
    for (const int64_t size : {2, 6, 16, 64, 130}) {
      SCOPED_TRACE(::testing::Message() << "heads of " << size);
      const Sizes sizes = {2, 5, 3, size};
      const auto table = rope_table(5, size, 100.0);
      const Tensor x = shifted(torch::randn(sizes).to(dtype), shift);
      const auto turned = [&](float direction) {
        return run({{sizes, dtype}}, shift, [&](const Tensors& out) {
          with_element(dtype, [&](auto element) {
            using T = decltype(element);
            kernels::rope(data<T>(x), data<float>(table.cosine), data<float>(table.sine),
                          data<T>(out[0]), 10, 5, 3, size, direction, {});
          });
        })[0];
      };
      const auto expected =
          evaluate([&](const Tensors& t) { return plain::rope(t[0], table.cosine, table.sine); },
                   to_double({x}), x.to(torch::kFloat64));
      expect_close(turned(1), expected.value, dtype);
      expect_close(turned(-1), expected.gradients[0], dtype);
    }
  });
}

TEST(CudaKernels, SwigluIsThatOfThePlainOperator) {
  over_elements([](torch::ScalarType dtype, int64_t shift) {
    for (const int64_t count : {1, 3, 31, 32, 33, 2051, 4097}) {
      SCOPED_TRACE(::testing::Message() << count << " elements");
      const Tensor gate = shifted((4 * torch::randn({count})).to(dtype), shift);
      const Tensor up = torch::randn({count}).to(dtype), dy = torch::randn({count}).to(dtype);
      const auto expected = evaluate([](const Tensors& t) { return plain::swiglu(t[0], t[1]); },
                                     to_double({gate, up}), dy.to(torch::kFloat64));
      const Output like_gate{{count}, dtype};
      const std::vector<Output> outputs(7, like_gate);
      const auto got = run(outputs, shift, [&](const Tensors& out) {
        out[3].copy_(dy);
        out[4].copy_(dy);
        with_element(dtype, [&](auto element) {
          using T = decltype(element);
          kernels::swiglu(data<T>(gate), data<T>(up), data<T>(out[0]), count, {});
          kernels::swiglu_backward(data<T>(out[3]), data<T>(gate), data<T>(up), data<T>(out[1]),
                                   data<T>(out[2]), /*becomes_y=*/false, count, {});
          kernels::swiglu_backward(data<T>(out[4]), data<T>(gate), data<T>(up), data<T>(out[5]),
                                   data<T>(out[6]), /*becomes_y=*/true, count, {});
        });
      });
      expect_close(got[0], expected.value, dtype);
      expect_close(got[1], expected.gradients[0], dtype);
      expect_close(got[2], expected.gradients[1], dtype);
      EXPECT_TRUE(torch::equal(got[3], dy));
      EXPECT_TRUE(torch::equal(got[4], got[0]));
      EXPECT_TRUE(torch::equal(got[5], got[1]) && torch::equal(got[6], got[2]));
    }
  });
}

struct LossAndGradient {
  Tensor losses, gradient;
};

LossAndGradient cross_entropy(const Tensor& logits, const Tensor& targets, double scale,
                              int64_t shift = 0) {
  const int64_t rows = logits.size(0), vocab = logits.size(1);
  const Tensor factor = torch::full({}, scale);
  const auto got = run(
      {{{rows}, torch::kFloat32}, {{rows, vocab}, logits.scalar_type()}, {{rows}, torch::kFloat32}},
      shift, [&](const Tensors& out) {
        out[1].copy_(logits);
        with_element(logits.scalar_type(), [&](auto element) {
          using T = decltype(element);
          const int64_t* target = data<int64_t>(targets);
          kernels::cross_entropy(data<T>(out[1]), target, -100, nullptr, data<float>(out[0]), rows,
                                 vocab, {});
          EXPECT_TRUE(torch::equal(out[1], logits)) << "without a scale the logits stay";
          kernels::cross_entropy(data<T>(out[1]), target, -100, data<float>(factor),
                                 data<float>(out[2]), rows, vocab, {});
        });
      });
  EXPECT_TRUE(torch::equal(got[0], got[2])) << "the loss depends on whether there is a gradient";
  return {got[2], got[1]};
}

TEST(CudaKernels, CrossEntropyIsThatOfThePlainOperator) {
  over_elements([](torch::ScalarType dtype, int64_t shift) {
    for (const int64_t vocab : kColumns) {
      SCOPED_TRACE(::testing::Message() << vocab << " columns");
      const Tensor logits = (5 * torch::randn({4, vocab})).to(dtype);
      const Tensor targets = torch::randint(vocab, {4});
      targets[0] = 0;
      targets[1] = vocab - 1;
      targets[2] = -100;
      const auto got = cross_entropy(logits, targets, 0.25, shift);
      const auto loss_of = [&](const Tensors& t) {
        return torch::nll_loss(torch::log_softmax(t[0], -1), targets, {}, at::Reduction::None,
                               -100);
      };
      const auto expected =
          evaluate(loss_of, to_double({logits}), torch::full({4}, 0.25, torch::kFloat64));
      expect_close(got.losses, expected.value, torch::kFloat32);
      // Of a column each, not of the typical one, which is next to nothing.
      const Tensor off = (got.gradient.to(torch::kFloat64) - expected.gradients[0]).abs();
      const double tolerance = dtype == torch::kBFloat16 ? 4e-3 : 1e-5;
      const Tensor bound = tolerance * expected.gradients[0].abs() + 1e-7;
      EXPECT_TRUE(off.le(bound).all().item<bool>()) << "off by " << off.max().item<double>();
      EXPECT_TRUE(got.gradient[2].eq(0).all().item<bool>());
    }
  });
}

TEST(CudaKernels, CrossEntropyHoldsAtTheEndsOfTheRange) {
  Tensor logits = torch::full({2, 300}, -INFINITY);
  logits[0][7] = 3e38f;
  logits[1].fill_(-3e38f);
  const auto got = cross_entropy(logits, torch::full({2}, 7, torch::kInt64), 1);
  EXPECT_EQ(got.losses[0].item<float>(), 0);
  EXPECT_TRUE(got.gradient[0].eq(0).all().item<bool>());
  EXPECT_FLOAT_EQ(got.losses[1].item<float>(), std::log(300.0f));
}

TEST(CudaKernels, CrossEntropyOfNonFiniteLogitsOrUnknownTargetsIsNotFinite) {
  const Tensor known = torch::full({1}, 2, torch::kInt64);
  for (const float value : {NAN, INFINITY}) {
    Tensor logits = torch::randn({1, 257});
    logits[0][200] = value;
    Tensor loss = torch::zeros({1}), scale = torch::ones({1});
    kernels::cross_entropy(data<float>(logits), data<int64_t>(known), -100, data<float>(scale),
                           data<float>(loss), 1, 257, {});
    EXPECT_FALSE(std::isfinite(loss.item<float>())) << value;
  }
  for (const int64_t target : {int64_t{-1}, int64_t{257}, int64_t{1} << 40}) {
    for (const bool has_scale : {false, true}) {
      Tensor logits = torch::randn({1, 257}), loss = torch::zeros({1}), scale = torch::ones({1});
      const Tensor unknown = torch::full({1}, target, torch::kInt64);
      kernels::cross_entropy(data<float>(logits), data<int64_t>(unknown), -100,
                             has_scale ? data<float>(scale) : nullptr, data<float>(loss), 1, 257,
                             {});
      EXPECT_TRUE(std::isnan(loss.item<float>())) << target;
      EXPECT_EQ(logits.isnan().all().item<bool>(), has_scale);
    }
  }
}

TEST(CudaKernels, AGridOfFewThreadsTakesEveryElement) {
  const int64_t count = 1003;
  const Tensor gate = torch::randn({count}), up = torch::randn({count});
  const auto got = run({{{count}, torch::kFloat32}}, 0, [&](const Tensors& out) {
    kernels::launch(kernels::swiglu_elements<float, 4>, 2, 32, {}, data<float>(gate),
                    data<float>(up), data<float>(out[0]), count);
  });
  expect_close(got[0], plain::swiglu(gate, up), torch::kFloat32);
}

}  // namespace
}  // namespace crnet
