#include "crnet/ops/linear_cross_entropy.h"

#include <algorithm>

#include "crnet/core/error.h"
#include "crnet/core/format.h"
#include "ops/cpu/dispatch.h"
#include "ops/cuda/dispatch.h"
#include "ops/parallel.h"
#include "ops/product.h"

namespace crnet {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;

// On a CPU a chunk is a good part of a step's memory; half of it cost 4 to 6 % of a step (60M). A
// GPU adds each chunk's [V, C] gradient to the sum, 8 bytes a number in bf16: at 4 TB/s as long as
// its product of 600 rows takes at 600 TFLOP/s. By count; not measured.
constexpr int64_t kCpuChunkBytes = 64 << 20, kGpuChunkBytes = 256 << 20;

torch::ScalarType wide_type(const Tensor& t) {
  return torch::promote_types(t.scalar_type(), torch::kFloat32);
}

int64_t kernel_target(int64_t target) {
  return target == kIgnoredTarget ? -1 : target;
}

// The sum of the rows' losses. With `scale` defined, the logits become scale · dloss/dlogits.
Tensor chunk_loss_cpu(Tensor& logits, const Tensor& targets, const Tensor& scale) {
  const int64_t rows = logits.size(0), vocab = logits.size(1);
  Tensor losses = torch::empty({rows}, logits.options().dtype(torch::kFloat32));
  const float factor = scale.defined() ? scale.item<float>() : 0.0f;
  cpu::with_element_type(logits, [&](auto element) {
    using T = decltype(element);
    const int64_t* target = cpu::const_data<int64_t>(targets);
    parallel_for(0, rows, cpu::grain_rows(vocab), [&](int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row) {
        T* line = cpu::data<T>(logits) + row * vocab;
        const int64_t t = kernel_target(target[row]);
        cpu::data<float>(losses)[row] =
            scale.defined() ? cpu::kernels<T>().cross_entropy_row(line, vocab, t, factor)
                            : cpu::kernels<T>().cross_entropy_loss_row(line, vocab, t);
      }
    });
  });
  return losses.sum(torch::kFloat64).to(torch::kFloat32);
}

Tensor chunk_loss_cuda(Tensor& logits, const Tensor& targets, const Tensor& scale) {
  Tensor losses = torch::empty({logits.size(0)}, logits.options().dtype(torch::kFloat32));
  cuda::with_stream(logits, [&](auto element, cuda::Stream stream) {
    using T = decltype(element);
    cuda::cross_entropy(cuda::data<T>(logits), cuda::const_data<int64_t>(targets), kIgnoredTarget,
                        scale.defined() ? cuda::const_data<float>(scale) : nullptr,
                        cuda::data<float>(losses), logits.size(0), logits.size(1), stream);
  });
  return losses.sum(torch::kFloat64).to(torch::kFloat32);
}

Tensor chunk_loss_plain(Tensor& logits, const Tensor& targets, const Tensor& scale) {
  const Tensor ignored = targets == kIgnoredTarget;  // [n]
  const Tensor unknown = (targets < 0) | (targets >= logits.size(1));
  const Tensor index = targets.masked_fill(unknown, 0).unsqueeze(1);
  // What a row counts: 1 or 0, or NaN where nobody has looked at the target before.
  const Tensor share = torch::ones(targets.sizes(), logits.options().dtype(wide_type(logits)))
                           .masked_fill_(unknown, NAN)
                           .masked_fill_(ignored, 0);
  Tensor log_probability = torch::log_softmax(logits, -1, wide_type(logits));
  const Tensor loss = -(log_probability.gather(1, index).squeeze(1) * share).sum();
  if (scale.defined()) {
    Tensor gradient = log_probability.exp_();
    gradient.scatter_add_(1, index,
                          torch::full({1, 1}, -1.0, gradient.options()).expand({index.size(0), 1}));
    logits.copy_(gradient.mul_((share * scale).unsqueeze(1)));
  }
  return loss;
}

Tensor chunk_loss(Tensor& logits, const Tensor& targets, const Tensor& scale) {
  if (cpu::takes(logits) && targets.is_contiguous()) {
    return chunk_loss_cpu(logits, targets, scale);
  }
  if (cuda::takes(logits) && targets.is_contiguous() && targets.device() == logits.device()) {
    return chunk_loss_cuda(logits, targets, scale);
  }
  return chunk_loss_plain(logits, targets, scale);
}

struct LossAndGradients {
  Tensor loss, hidden, weight;
};

LossAndGradients compute(const Tensor& hidden, const Tensor& weight, const Tensor& targets,
                         int64_t chunk_rows, bool want_gradients) {
  RECORD_USER_SCOPE("crnet::linear_cross_entropy");
  const int64_t rows = hidden.size(0);
  const Tensor w = as_factor(weight, hidden.narrow(0, 0, std::min(chunk_rows, rows)));  // [V, C]
  const auto wide = hidden.options().dtype(wide_type(hidden));
  const Tensor count = (targets != kIgnoredTarget).sum().to(wide.dtype()).clamp_min(1);
  const Tensor scale = want_gradients ? count.reciprocal() : Tensor();
  LossAndGradients result{torch::zeros({}, wide), {}, {}};
  if (want_gradients) {
    result.hidden = torch::empty_like(hidden);
    // Before the chunk, whose place at the end of the memory then fits what comes last and is as
    // large: the gradient of the embedding.
    result.weight = torch::empty(weight.sizes(), weight.options());
    if (rows == 0) result.weight.zero_();
  }
  const Tensor chunk = torch::empty({std::min(chunk_rows, rows), w.size(0)}, hidden.options());
  for (int64_t begin = 0; begin < rows; begin += chunk_rows) {
    const int64_t n = std::min(chunk_rows, rows - begin);
    const Tensor h = hidden.narrow(0, begin, n);
    Tensor logits = chunk.narrow(0, 0, n);  // [n, V]
    store_product(logits, h, w.t());
    result.loss += chunk_loss(logits, targets.narrow(0, begin, n), scale);
    if (!want_gradients) continue;
    Tensor dh = result.hidden.narrow(0, begin, n);
    store_product(dh, logits, w);
    if (begin == 0) {
      store_product(result.weight, logits.t(), h);
    } else {
      add_product(result.weight, logits.t(), h);
    }
  }
  result.loss /= count;
  return result;
}

class LinearCrossEntropy : public torch::autograd::Function<LinearCrossEntropy> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& hidden, const Tensor& weight,
                        const Tensor& targets, int64_t chunk_rows) {
    auto result = compute(hidden, weight, targets, chunk_rows, /*want_gradients=*/true);
    ctx->save_for_backward({result.hidden, result.weight});
    return result.loss;
  }

  static tensor_list backward(AutogradContext* ctx, tensor_list grad_outputs) {
    const auto saved = ctx->get_saved_variables();
    const Tensor& g = grad_outputs[0];
    // The usual case by far: the loss is what backward() was called on. Spares a pass over [V, C].
    const bool is_one = g.device().is_cpu() && g.item<double>() == 1.0;
    if (is_one) return {saved[0], saved[1], Tensor(), Tensor()};
    return {saved[0] * g, saved[1] * g, Tensor(), Tensor()};
  }
};

void check(const Tensor& hidden, const Tensor& weight, const Tensor& targets) {
  const bool fits = hidden.dim() == 2 && weight.dim() == 2 && targets.dim() == 1 &&
                    hidden.size(1) == weight.size(1) && hidden.size(0) == targets.size(0) &&
                    targets.scalar_type() == torch::kInt64;
  if (!fits) {
    std::ostringstream text;
    text << "[linear_cross_entropy] expected hidden [N, C], weight [V, C], targets int64 [N], got "
         << hidden.sizes() << ", " << weight.sizes() << ", " << targets.sizes() << " "
         << targets.scalar_type();
    throw Error(text.str());
  }
  if (!targets.device().is_cpu() || targets.numel() == 0) return;  // no synchronisation for a check
  const Tensor wrong = (targets != kIgnoredTarget) & ((targets < 0) | (targets >= weight.size(0)));
  if (!wrong.any().item<bool>()) return;
  throw Error(format("[linear_cross_entropy] expected targets in [0, %ld), got %ld",
                     static_cast<long>(weight.size(0)),
                     static_cast<long>(targets.masked_select(wrong)[0].item<int64_t>())));
}

}  // namespace

int64_t default_chunk_rows(int64_t rows, int64_t vocab, bool on_cpu, torch::ScalarType dtype) {
  const int64_t bytes = on_cpu ? kCpuChunkBytes : kGpuChunkBytes;
  const int64_t row = vocab * static_cast<int64_t>(c10::elementSize(dtype));
  const int64_t by_size = std::max<int64_t>(64, bytes / row / 64 * 64);
  if (rows <= 64) return rows;
  // Of about one size: the last may not be of few rows, for which products have other ways.
  const int64_t chunks = std::max<int64_t>(2, (rows + by_size - 1) / by_size);
  const int64_t even = (rows + chunks - 1) / chunks;
  return chunks == 2 ? even : std::min(by_size, (even + 63) / 64 * 64);
}

Tensor linear_cross_entropy(const Tensor& hidden, const Tensor& weight, const Tensor& targets,
                            int64_t chunk_rows) {
  check(hidden, weight, targets);
  if (chunk_rows <= 0) {
    chunk_rows =
        default_chunk_rows(hidden.size(0), weight.size(0), hidden.is_cpu(), hidden.scalar_type());
  }
  const bool trains =
      torch::GradMode::is_enabled() && (hidden.requires_grad() || weight.requires_grad());
  if (!trains) return compute(hidden, weight, targets, chunk_rows, false).loss;
  return LinearCrossEntropy::apply(hidden, weight, targets, chunk_rows);
}

namespace plain {

Tensor linear_cross_entropy(const Tensor& hidden, const Tensor& weight, const Tensor& targets) {
  check(hidden, weight, targets);
  const Tensor logits = torch::matmul(hidden, weight.to(hidden.scalar_type()).t());
  const Tensor count = (targets != kIgnoredTarget).sum().clamp_min(1);
  return torch::nll_loss(torch::log_softmax(logits, -1, wide_type(hidden)), targets, {},
                         at::Reduction::Sum, kIgnoredTarget) /
         count;
}

}  // namespace plain
}  // namespace crnet
