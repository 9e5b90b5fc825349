#include "crnet/ops/attention.h"

#include <cmath>
#include <sstream>

#include "crnet/core/error.h"
#include "ops/cpu_attention.h"
#include "ops/library_attention.h"
#include "ops/remade.h"

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

// Whole sequences, by an attention whose two passes are called one by one, so that its products can
// be held, and q and k made again. q [B, T, H, D]; k, v [B, T, G, D].
class WholeAttention : public torch::autograd::Function<WholeAttention> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& q, const Tensor& k, const Tensor& v,
                        at::SDPBackend choice, AttentionProducts* products) {
    if (!products->out.defined()) {
      *products = cpu::takes_attention(q, k, v) ? cpu::attention(q, k, v)
                                                : library_attention(q, k, v, choice);
    }
    ctx->save_for_backward({to_save(ctx, "q", q), to_save(ctx, "k", k), v, products->out,
                            products->log_sum_exp, products->seed, products->offset});
    ctx->saved_data["by_cudnn"] = products->by_cudnn;
    return products->out.variable_data();  // the result gets a graph, the held tensor none
  }

  static tensor_list backward(AutogradContext* ctx, tensor_list grad_outputs) {
    RECORD_USER_SCOPE("crnet::causal_attention_backward");
    const auto saved = ctx->get_saved_variables();
    const Tensor q = from_saved(ctx, "q", saved[0]), k = from_saved(ctx, "k", saved[1]);
    const Tensor& v = saved[2];
    const auto run =
        cpu::takes_attention(q, k, v) ? cpu::attention_backward : library_attention_backward;
    const auto [dq, dk, dv] =
        run(grad_outputs[0], q, k, v,
            {saved[3], saved[4], saved[5], saved[6], ctx->saved_data["by_cudnn"].toBool()});
    return {dq, dk, dv, Tensor(), Tensor()};
  }
};

}  // namespace

Tensor causal_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                        AttentionProducts* products) {
  RECORD_USER_SCOPE("crnet::causal_attention");
  if (q.dim() != 4 || k.dim() != 4 || k.sizes() != v.sizes() || q.size(0) != k.size(0) ||
      q.size(3) != k.size(3) || q.size(1) > k.size(1) || q.size(2) % k.size(2) != 0) {
    std::ostringstream text;
    text << "[attention] expected q [B, T, H, D], k and v [B, S, G, D] with S ≥ T and G a divisor "
            "of H, got "
         << q.sizes() << ", " << k.sizes() << " and " << v.sizes();
    throw Error(text.str());
  }
  const int64_t queries = q.size(1), keys = k.size(1), groups = q.size(2) / k.size(2);
  const bool whole = queries == keys;
  AttentionProducts unheld;
  if (products == nullptr) products = &unheld;
  const auto choice = whole ? library_choice(q) : std::nullopt;
  if (choice) return WholeAttention::apply(q, k, v, *choice, products);
  std::optional<Tensor> mask;
  if (!whole && queries > 1) mask = causal_mask(queries, keys, q.device());
  // LibTorch's CPU kernel has no grouped heads of its own, and its fallback is the slow
  // composition.
  const Tensor out = at::scaled_dot_product_attention(
      q.transpose(1, 2), widen_heads(k, groups).transpose(1, 2),
      widen_heads(v, groups).transpose(1, 2), mask, /*dropout_p=*/0.0,
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
