#include "ops/library_attention.h"

#include <ATen/ops/_fused_sdp_choice.h>
#include <ATen/ops/_scaled_dot_product_cudnn_attention.h>
#include <ATen/ops/_scaled_dot_product_cudnn_attention_backward.h>
#include <ATen/ops/_scaled_dot_product_flash_attention.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_backward.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_backward.h>

namespace crnet {
namespace {

using torch::Tensor;

constexpr double kNoDropout = 0.0;
constexpr bool kIsCausal = true;

// As LibTorch wants them: [B, H, T, D] each.
struct Inputs {
  Tensor q, k, v;

  Inputs(const Tensor& queries, const Tensor& keys, const Tensor& values)
      : q(queries.transpose(1, 2)) {
    const int64_t groups = queries.size(2) / keys.size(2);
    k = widen_heads(keys, groups).transpose(1, 2);
    v = widen_heads(values, groups).transpose(1, 2);
  }
};

// [B, T, H·D] → [B, H, T, D]
Tensor split_heads(const Tensor& t, int64_t heads) {
  return t.unflatten(2, {heads, -1}).transpose(1, 2);
}

// The gradient of k or v from that of widen_heads(): [B, G·groups, T, D] → [B, T, G, D].
Tensor narrow_heads(const Tensor& gradient, int64_t groups) {
  const Tensor wide = gradient.transpose(1, 2);
  return groups == 1 ? wide : wide.unflatten(2, {-1, groups}).sum(3);
}

}  // namespace

Tensor widen_heads(const Tensor& t, int64_t groups) {
  return groups == 1 ? t : t.repeat_interleave(groups, 2);
}

Tensor merge_heads(const Tensor& t) {
  return t.transpose(1, 2).flatten(2);
}

bool can_hold_attention(bool on_cpu, torch::ScalarType dtype, int64_t head_size) {
  return on_cpu || (dtype == torch::kBFloat16 && head_size % 8 == 0 && head_size <= 128);
}

std::optional<at::SDPBackend> library_choice(const Tensor& q) {
  if (q.device().is_cpu()) return at::SDPBackend::flash_attention;
  if (!q.is_cuda() || !can_hold_attention(/*on_cpu=*/false, q.scalar_type(), q.size(3))) {
    return std::nullopt;
  }
  const Tensor heads_first = q.transpose(1, 2);  // widened, k and v look the same
  const auto choice = static_cast<at::SDPBackend>(at::_fused_sdp_choice(
      heads_first, heads_first, heads_first, /*attn_mask=*/{}, kNoDropout, kIsCausal));
  const bool is_taken =
      choice == at::SDPBackend::cudnn_attention || choice == at::SDPBackend::flash_attention;
  return is_taken ? std::optional(choice) : std::nullopt;
}

AttentionProducts library_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                                    at::SDPBackend choice) {
  const Inputs in(q, k, v);
  if (q.device().is_cpu()) {
    const auto [out, log_sum_exp] =
        at::_scaled_dot_product_flash_attention_for_cpu(in.q, in.k, in.v, kNoDropout, kIsCausal);
    return {.out = merge_heads(out), .log_sum_exp = log_sum_exp};
  }
  const bool by_cudnn = choice == at::SDPBackend::cudnn_attention;
  const auto products =
      by_cudnn ? at::_scaled_dot_product_cudnn_attention(in.q, in.k, in.v, /*attn_bias=*/{},
                                                         /*compute_log_sumexp=*/true, kNoDropout,
                                                         kIsCausal)
               : at::_scaled_dot_product_flash_attention(in.q, in.k, in.v, kNoDropout, kIsCausal);
  return {.out = merge_heads(std::get<0>(products)),
          .log_sum_exp = std::get<1>(products),
          .seed = std::get<6>(products),
          .offset = std::get<7>(products),
          .by_cudnn = by_cudnn};
}

AttentionGradients library_attention_backward(const Tensor& gradient, const Tensor& q,
                                              const Tensor& k, const Tensor& v,
                                              const AttentionProducts& products) {
  const Inputs in(q, k, v);
  const int64_t heads = q.size(2), length = q.size(1), groups = heads / k.size(2);
  // Of one layout: cuDNN's plan for it does not look at the gradient's strides.
  const Tensor out = split_heads(products.out, heads);
  const Tensor d_out = split_heads(gradient.contiguous(), heads);
  const auto run = [&] {
    if (q.device().is_cpu()) {
      return at::_scaled_dot_product_flash_attention_for_cpu_backward(
          d_out, in.q, in.k, in.v, out, products.log_sum_exp, kNoDropout, kIsCausal);
    }
    if (products.by_cudnn) {
      return at::_scaled_dot_product_cudnn_attention_backward(
          d_out, in.q, in.k, in.v, out, products.log_sum_exp, products.seed, products.offset,
          /*attn_bias=*/{}, /*cum_seq_q=*/{}, /*cum_seq_k=*/{}, length, length, kNoDropout,
          kIsCausal);
    }
    return at::_scaled_dot_product_flash_attention_backward(
        d_out, in.q, in.k, in.v, out, products.log_sum_exp, /*cum_seq_q=*/{}, /*cum_seq_k=*/{},
        length, length, kNoDropout, kIsCausal, products.seed, products.offset);
  };
  const auto [dq, dk, dv] = run();
  return {dq.transpose(1, 2), narrow_heads(dk, groups), narrow_heads(dv, groups)};
}

}  // namespace crnet
