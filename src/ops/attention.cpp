#include "crnet/ops/attention.h"

#include <cmath>
#include <sstream>

#include "crnet/core/error.h"

namespace crnet {
namespace {

using torch::Tensor;

// [T, S], true where a query may look; the last query stands at the last key.
Tensor causal_mask(int64_t queries, int64_t keys, torch::Device device) {
  return torch::ones({queries, keys}, torch::TensorOptions().dtype(torch::kBool).device(device))
      .tril(keys - queries);
}

}  // namespace

Tensor causal_attention(const Tensor& q, const Tensor& k, const Tensor& v) {
  if (q.dim() != 4 || k.dim() != 4 || k.sizes() != v.sizes() || q.size(0) != k.size(0) ||
      q.size(3) != k.size(3) || q.size(1) > k.size(1) || q.size(2) % k.size(2) != 0) {
    std::ostringstream text;
    text << "[attention] expected q [B, T, H, D], k and v [B, S, G, D] with S ≥ T and G a divisor "
            "of "
            "H, got "
         << q.sizes() << ", " << k.sizes() << " and " << v.sizes();
    throw Error(text.str());
  }
  const int64_t queries = q.size(1), keys = k.size(1), groups = q.size(2) / k.size(2);
  // LibTorch's CPU kernel has no grouped heads of its own, and its fallback is the slow
  // composition.
  const Tensor wide_k = groups == 1 ? k : k.repeat_interleave(groups, 2);
  const Tensor wide_v = groups == 1 ? v : v.repeat_interleave(groups, 2);
  const bool whole = queries == keys;
  std::optional<Tensor> mask;
  if (!whole && queries > 1) mask = causal_mask(queries, keys, q.device());
  const Tensor out = at::scaled_dot_product_attention(
      q.transpose(1, 2), wide_k.transpose(1, 2), wide_v.transpose(1, 2), mask, /*dropout_p=*/0.0,
      /*is_causal=*/whole);  // [B, H, T, D]
  return out.transpose(1, 2).reshape({q.size(0), queries, q.size(2) * q.size(3)});
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
