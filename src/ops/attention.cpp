#include "crnet/ops/attention.h"

#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_backward.h>

#include <cmath>
#include <sstream>

#include "crnet/core/error.h"

namespace crnet {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;

// [T, S], true where a query may look; the last query stands at the last key.
Tensor causal_mask(int64_t queries, int64_t keys, torch::Device device) {
  return torch::ones({queries, keys}, torch::TensorOptions().dtype(torch::kBool).device(device))
      .tril(keys - queries);
}

// [B, H, T, D] → [B, T, H·D]
Tensor merge_heads(const Tensor& t) {
  return t.transpose(1, 2).flatten(2);
}

// Whole sequences on a CPU, so that the result and the log-sum-exp can be held. LibTorch's kernel
// is slower in bf16 than in fp32 (46.6 against 31.0 ms, forward and backward of 8 × 256 tokens of 8
// heads, Zen 5), so it runs in fp32; what is kept is bf16 all the same. q, k, v: [B, H, T, D].
class WholeOnCpu : public torch::autograd::Function<WholeOnCpu> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& q, const Tensor& k, const Tensor& v,
                        AttentionProducts* products) {
    if (!products->out.defined()) {
      const auto [out, log_sum_exp] = at::_scaled_dot_product_flash_attention_for_cpu(
          wide(q), wide(k), wide(v), /*dropout_p=*/0.0, /*is_causal=*/true);
      *products = {out.to(q.scalar_type()), log_sum_exp};
    }
    ctx->save_for_backward({q, k, v, products->out, products->log_sum_exp});
    return products->out.variable_data();  // the result gets a graph, the held tensor none
  }

  static tensor_list backward(AutogradContext* ctx, tensor_list grad_outputs) {
    const auto saved = ctx->get_saved_variables();
    const auto dtype = saved[0].scalar_type();
    const auto [dq, dk, dv] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
        wide(grad_outputs[0]), wide(saved[0]), wide(saved[1]), wide(saved[2]), wide(saved[3]),
        saved[4], /*dropout_p=*/0.0, /*is_causal=*/true);
    return {dq.to(dtype), dk.to(dtype), dv.to(dtype), Tensor()};
  }

 private:
  static Tensor wide(const Tensor& t) {
    return t.to(torch::promote_types(t.scalar_type(), torch::kFloat32));
  }
};

}  // namespace

Tensor causal_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                        AttentionProducts* products) {
  if (q.dim() != 4 || k.dim() != 4 || k.sizes() != v.sizes() || q.size(0) != k.size(0) ||
      q.size(3) != k.size(3) || q.size(1) > k.size(1) || q.size(2) % k.size(2) != 0) {
    std::ostringstream text;
    text << "[attention] expected q [B, T, H, D], k and v [B, S, G, D] with S ≥ T and G a divisor "
            "of H, got "
         << q.sizes() << ", " << k.sizes() << " and " << v.sizes();
    throw Error(text.str());
  }
  const int64_t queries = q.size(1), keys = k.size(1), groups = q.size(2) / k.size(2);
  // LibTorch's CPU kernel has no grouped heads of its own, and its fallback is the slow
  // composition.
  const Tensor wide_k = groups == 1 ? k : k.repeat_interleave(groups, 2);
  const Tensor wide_v = groups == 1 ? v : v.repeat_interleave(groups, 2);
  const bool whole = queries == keys;
  if (whole && q.device().is_cpu()) {
    AttentionProducts unheld;
    return merge_heads(WholeOnCpu::apply(q.transpose(1, 2), wide_k.transpose(1, 2),
                                         wide_v.transpose(1, 2),
                                         products != nullptr ? products : &unheld));
  }
  std::optional<Tensor> mask;
  if (!whole && queries > 1) mask = causal_mask(queries, keys, q.device());
  const Tensor out = at::scaled_dot_product_attention(
      q.transpose(1, 2), wide_k.transpose(1, 2), wide_v.transpose(1, 2), mask, /*dropout_p=*/0.0,
      /*is_causal=*/whole);  // [B, H, T, D]
  return merge_heads(out);
}

namespace plain {

Tensor causal_attention(const Tensor& q, const Tensor& k, const Tensor& v) {
  const int64_t groups = q.size(2) / k.size(2);
  const Tensor wide_k = k.repeat_interleave(groups, 2).permute({0, 2, 3, 1});  // [B, H, D, S]
  const Tensor wide_v = v.repeat_interleave(groups, 2).transpose(1, 2);        // [B, H, S, D]
  const Tensor scores =
      torch::matmul(q.transpose(1, 2), wide_k) / std::sqrt(static_cast<double>(q.size(3)));
  const Tensor mask = causal_mask(q.size(1), k.size(1), q.device());
  const Tensor weights = torch::softmax(
      scores.masked_fill(mask.logical_not(), -std::numeric_limits<double>::infinity()), -1);
  return torch::matmul(weights, wide_v)
      .transpose(1, 2)
      .reshape({q.size(0), q.size(1), q.size(2) * q.size(3)});
}

}  // namespace plain
}  // namespace crnet
