// The CUDA kernels' own sources, run on the CPU by an emulation, against the plain operators in
// fp64: values and gradients over sizes that fill packs and that do not. Every output is NaN
// before, lies within a frame that has to stay, and must be the same for any order of threads.
#include "ops/cuda_emulation.h"
// Then the kernels.
#include "ops/cuda/cross_entropy.cu"
#include "ops/cuda/low_rank_residual.cu"
#include "ops/cuda/rms_norm.cu"
#include "ops/cuda/rope.cu"
#include "ops/cuda/swiglu.cu"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "crnet/ops/low_rank_residual.h"
#include "crnet/ops/rms_norm.h"
#include "crnet/ops/rope.h"
#include "crnet/ops/swiglu.h"
#include "gradcheck.h"

namespace crnet {
namespace {

namespace kernels = cuda_emulation;
using testing::evaluate;
using testing::to_double;
using torch::Tensor;
using Tensors = std::vector<Tensor>;
using Sizes = std::vector<int64_t>;

// A block of fewer threads than a row has packs, and rows that take more than registers hold.
const Sizes kColumns = {1, 3, 31, 32, 33, 257, 1032, 4097, 20488};

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
Tensors run(const std::vector<Output>& outputs, int64_t shift,
            const std::function<void(const Tensors&)>& f) {
  std::vector<Tensors> results;
  for (const bool backwards : {false, true}) {
    testing::emulate_backwards() = backwards;
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
Tensor shifted(const Tensor& t, int64_t shift) {
  Tensor all = torch::zeros({t.numel() + shift}, t.options());
  return all.narrow(0, shift, t.numel()).view(t.sizes()).copy_(t);
}

/// Element by element: a few roundings of it, of the typical one where sums cancel, or, where all
/// do, of what cancels there, which is near 1.
void expect_close(const Tensor& got, const Tensor& expected, torch::ScalarType dtype) {
  ASSERT_EQ(got.sizes(), expected.sizes());
  const double tolerance = dtype == torch::kBFloat16 ? 1e-2 : 1e-5;
  const Tensor wide = expected.detach().to(torch::kFloat64);
  const Tensor bound = tolerance * (wide.abs() + wide.square().mean().sqrt().clamp_min(0.1));
  const Tensor off = (got.to(torch::kFloat64) - wide).abs();
  EXPECT_TRUE(off.le(bound).all().item<bool>()) << "off by " << off.max().item<double>();
}

/// Over dtypes, and memory that allows packs and that does not.
void over_elements(const std::function<void(torch::ScalarType dtype, int64_t shift)>& f) {
  for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
    for (const int64_t shift : {0, 1}) {
      SCOPED_TRACE(::testing::Message() << dtype << ", shifted by " << shift);
      f(dtype, shift);
    }
  }
}

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
