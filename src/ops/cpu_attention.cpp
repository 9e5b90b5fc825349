#include "ops/cpu_attention.h"

#include <algorithm>

#include "ops/cpu/attention_kernels.h"
#include "ops/cpu/dispatch.h"
#include "ops/parallel.h"

namespace crnet::cpu {
namespace {

using torch::Tensor;

// A head's elements lie one after another.
Tensor readable(const Tensor& t) {
  return t.stride(3) == 1 ? t : t.contiguous();
}

// The heads from `head` on of one sequence of t [B, T, heads, D].
template <class T>
HeadRows<T> rows(const Tensor& t, T* data, int64_t sequence, int64_t head) {
  return {data + sequence * t.stride(0) + head * t.stride(2), t.stride(1), t.stride(2)};
}
template <class T>
HeadRows<const T> const_rows(const Tensor& t, int64_t sequence, int64_t head) {
  return rows(t, const_data<T>(t), sequence, head);
}
template <class T>
HeadRows<T> mutable_rows(const Tensor& t, int64_t sequence, int64_t head) {
  return rows(t, data<T>(t), sequence, head);
}

// A group is a sequence's head of keys and values, with the query heads that read it.
struct Groups {
  int64_t key_heads, count;
  AttentionSizes sizes;
  Groups(const Tensor& q, const Tensor& k)
      : key_heads(k.size(2)),
        count(q.size(0) * k.size(2)),
        sizes{q.size(1), q.size(3), q.size(2) / k.size(2)} {}

  [[nodiscard]] int64_t sequence(int64_t group) const { return group / key_heads; }
  [[nodiscard]] int64_t key_head(int64_t group) const { return group % key_heads; }
  [[nodiscard]] int64_t query_head(int64_t group) const { return key_head(group) * sizes.heads; }
  [[nodiscard]] int64_t log_sum_exp(int64_t group) const {
    return group * sizes.heads * sizes.length;
  }
};

// The pieces that the positions of a group are split into, at multiples of `block`.
struct Pieces {
  int64_t length, total, count;
  Pieces(int64_t pieces, int64_t block, int64_t positions)
      : length(block * (positions / (block * pieces) + 1)),
        total(positions),
        count((positions + length - 1) / length) {}
  [[nodiscard]] Positions at(int64_t index) const {
    return {index * length, std::min((index + 1) * length, total)};
  }
};

// Pieces of a group, or 1: splitting takes 7 products in place of 5 in the backward pass, which
// must be less than what threads would idle.
int64_t pieces_wanted(int64_t groups) {
  const int64_t threads = at::get_num_threads();
  const int64_t rounds = (groups + threads - 1) / threads;
  return 5 * rounds * threads > 7 * groups ? 4 * threads / groups + 1 : 1;
}

template <class T>
void run_forward(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out,
                 const Tensor& log_sum_exp) {
  const Groups groups(q, k);
  const auto& kernels = attention_kernels<T>();
  const auto task = [&](int64_t group) -> AttentionForward<T> {
    const int64_t sequence = groups.sequence(group), head = groups.query_head(group);
    const int64_t key_head = groups.key_head(group);
    return {groups.sizes,
            const_rows<T>(q, sequence, head),
            const_rows<T>(k, sequence, key_head),
            const_rows<T>(v, sequence, key_head),
            mutable_rows<T>(out, sequence, head),
            data<float>(log_sum_exp) + groups.log_sum_exp(group)};
  };
  const Pieces queries(pieces_wanted(groups.count), kQueryBlock, groups.sizes.length);
  for_each_task(groups.count * queries.count, kernels.scratch(groups.sizes),
                [&](int64_t index, float* scratch) {
                  kernels.forward(task(index / queries.count), queries.at(index % queries.count),
                                  scratch);
                });
}

template <class T>
void run_backward(const Tensor& dout, const Tensor& q, const Tensor& k, const Tensor& v,
                  const Tensor& out, const Tensor& log_sum_exp, const AttentionGradients& d) {
  const Groups groups(q, k);
  const auto& kernels = attention_kernels<T>();
  const auto task = [&](int64_t group) -> AttentionBackward<T> {
    const int64_t sequence = groups.sequence(group), head = groups.query_head(group);
    const int64_t key_head = groups.key_head(group);
    return {groups.sizes,
            const_rows<T>(q, sequence, head),
            const_rows<T>(k, sequence, key_head),
            const_rows<T>(v, sequence, key_head),
            const_rows<T>(out, sequence, head),
            const_rows<T>(dout, sequence, head),
            const_data<float>(log_sum_exp) + groups.log_sum_exp(group),
            mutable_rows<T>(d.q, sequence, head),
            mutable_rows<T>(d.k, sequence, key_head),
            mutable_rows<T>(d.v, sequence, key_head)};
  };
  const Positions all{0, groups.sizes.length};
  const int64_t scratch_size = kernels.scratch(groups.sizes);
  const int64_t wanted = pieces_wanted(groups.count);
  if (wanted == 1) {
    return for_each_task(groups.count, scratch_size, [&](int64_t group, float* scratch) {
      kernels.backward(task(group), all, all, scratch);
    });
  }
  const Pieces keys(wanted, kKeyBlock, all.end), queries(wanted, kQueryBlock, all.end);
  const int64_t num_key_tasks = groups.count * keys.count;
  for_each_task(num_key_tasks + groups.count * queries.count, scratch_size,
                [&](int64_t index, float* scratch) {
                  if (index < num_key_tasks) {
                    auto of_keys = task(index / keys.count);
                    of_keys.dq = {};
                    kernels.backward(of_keys, all, keys.at(index % keys.count), scratch);
                  } else {
                    index -= num_key_tasks;
                    auto of_queries = task(index / queries.count);
                    of_queries.dk = of_queries.dv = {};
                    kernels.backward(of_queries, queries.at(index % queries.count), all, scratch);
                  }
                });
}

}  // namespace

bool takes_attention(const Tensor& q, const Tensor& k, const Tensor& v) {
  const auto dtype = q.scalar_type();
  return q.device().is_cpu() && (dtype == torch::kFloat32 || dtype == torch::kBFloat16) &&
         k.scalar_type() == dtype && v.scalar_type() == dtype && q.numel() > 0;
}

AttentionProducts attention(const Tensor& q, const Tensor& k, const Tensor& v) {
  const Tensor out = torch::empty(q.sizes(), q.options());
  const Tensor log_sum_exp =
      torch::empty({q.size(0), q.size(2), q.size(1)}, q.options().dtype(torch::kFloat32));
  with_element_type(q, [&](auto element) {
    run_forward<decltype(element)>(readable(q), readable(k), readable(v), out, log_sum_exp);
  });
  return {out.flatten(2), log_sum_exp};
}

AttentionGradients attention_backward(const Tensor& gradient, const Tensor& q, const Tensor& k,
                                      const Tensor& v, const AttentionProducts& products) {
  const AttentionGradients d{torch::empty(q.sizes(), q.options()),
                             torch::empty(k.sizes(), k.options()),
                             torch::empty(v.sizes(), v.options())};
  with_element_type(q, [&](auto element) {
    run_backward<decltype(element)>(readable(gradient.contiguous().view(q.sizes())), readable(q),
                                    readable(k), readable(v), products.out.view(q.sizes()),
                                    products.log_sum_exp, d);
  });
  return d;
}

}  // namespace crnet::cpu
