// Flash attention (Dao, 2023; arXiv:2307.08691): blocks of queries against blocks of keys, whose
// weights are made again in the backward pass. The outer loop is over keys, so that working memory
// grows with one head's queries alone. Compiled as kernels.cpp is.
#include "ops/cpu/attention_kernels.h"

#include "ops/cpu/attention_blocks.h"

namespace crnet::cpu::CRNET_CPU_VARIANT {
namespace {

// Hands out the working memory; without any, counts it.
class Scratch {
 public:
  explicit Scratch(float* memory) : memory_(memory) {}
  float* take(int64_t count) {
    float* const piece = memory_ == nullptr ? nullptr : memory_ + used_;
    used_ += round_up(count, 16);
    return piece;
  }
  [[nodiscard]] int64_t used() const { return used_; }

 private:
  float* memory_;
  int64_t used_ = 0;
};

// Blocks are no larger than the sequence. Rows of weights lie apart by more than a power of two:
// else they would meet in few sets of the cache.
struct BlockSizes {
  int64_t queries, keys, padded, weight_stride;
  explicit BlockSizes(const AttentionSizes& sizes)
      : queries(smaller(kQueryBlock, sizes.length)),
        keys(round_up(smaller(kKeyBlock, sizes.length), kTileColumns)),
        padded(round_up(sizes.head_size, kTileColumns)),
        weight_stride(keys + kTileColumns) {}
};

template <class T>
T* at(const HeadRows<T>& rows, int64_t position, int64_t head) {
  return rows.data + position * rows.row + head * rows.head;
}

inline void clear(float* x, int64_t count) {
  memset(x, 0, static_cast<size_t>(count) * sizeof(float));
}

template <class T>
void store_scaled(const float* x, int64_t count, float factor, T* to) {
  for (int64_t d = 0; d < count; ++d) store(to + d, x[d] * factor);
}

template <class T>
float dot(const T* a, const T* b, int64_t count) {
  float sum = 0;
  for (int64_t d = 0; d < count; ++d) sum += load(a + d) * load(b + d);
  return sum;
}

// What both directions share: the sizes, and the walk over pairs of blocks.
struct Walk {
  AttentionSizes sizes;
  BlockSizes blocks;
  Positions queries;
  float scale;  // 1 / √D

  Walk(const AttentionSizes& s, Positions q)
      : sizes(s), blocks(s), queries(q), scale(1.0f / sqrtf(static_cast<float>(s.head_size))) {}

  [[nodiscard]] int64_t num_queries() const { return queries.end - queries.begin; }
  // The row of a query in what is kept for all heads' queries of the range.
  [[nodiscard]] int64_t row(int64_t head, int64_t query) const {
    return head * num_queries() + query - queries.begin;
  }

  // Calls f(pair, head) for every block of queries that sees some of the keys.
  template <class F>
  void for_each_pair(int64_t key, int64_t keys, F&& f) const {
    const int64_t first = larger(queries.begin, key / kQueryBlock * kQueryBlock);
    for (int64_t head = 0; head < sizes.heads; ++head) {
      for (int64_t query = first; query < queries.end; query += kQueryBlock) {
        const int64_t rows = smaller(kQueryBlock, queries.end - query);
        f(BlockPair{query, rows, key, keys, sizes.head_size, blocks.padded, blocks.weight_stride,
                    scale},
          head);
      }
    }
  }
  // Calls f(head, query) for every query.
  template <class F>
  void for_each_query(F&& f) const {
    for (int64_t head = 0; head < sizes.heads; ++head) {
      for (int64_t query = queries.begin; query < queries.end; ++query) f(head, query);
    }
  }
};

struct ForwardScratch {
  float *q, *k, *v;          // [rows, D̂], panels of kᵀ, panels of v
  float* scores;             // [rows, weight_stride]
  float *y, *maximum, *sum;  // of all queries: [n, T, D̂], [n, T], [n, T]
  ForwardScratch(const BlockSizes& blocks, int64_t queries, Scratch& scratch)
      : q(scratch.take(blocks.queries * blocks.padded)),
        k(scratch.take(blocks.keys * blocks.padded)),
        v(scratch.take(blocks.keys * blocks.padded)),
        scores(scratch.take(blocks.queries * blocks.weight_stride)),
        y(scratch.take(queries * blocks.padded)),
        maximum(scratch.take(queries)),
        sum(scratch.take(queries)) {}
};

template <class T>
void forward(const AttentionForward<T>& task, Positions queries, float* memory) {
  const Walk walk(task.sizes, queries);
  const int64_t size = task.sizes.head_size, padded = walk.blocks.padded;
  const int64_t num_rows = task.sizes.heads * walk.num_queries();
  Scratch scratch(memory);
  const ForwardScratch s(walk.blocks, num_rows, scratch);
  const ScoreProduct<T> product(size, task.q.row, task.k.row);
  clear(s.y, num_rows * padded);
  clear(s.sum, num_rows);
  for (int64_t i = 0; i < num_rows; ++i) s.maximum[i] = -INFINITY;

  for (int64_t key = 0; key < queries.end; key += kKeyBlock) {
    const int64_t keys = smaller(kKeyBlock, task.sizes.length - key);
    product.pack_right(at(task.k, key, 0), task.k.row, keys, s.k);
    pack_panels(at(task.v, key, 0), task.v.row, keys, size, s.v);
    walk.for_each_pair(key, keys, [&](const BlockPair& pair, int64_t head) {
      const int64_t row = walk.row(head, pair.query);
      const T* const q = at(task.q, pair.query, head);
      if (!product.in_pairs()) pack_wide(q, task.q.row, pair.rows, size, s.q);
      product.multiply(pair, q, task.q.row, s.q, s.k, s.scores);
      soften<T>(pair, s.scores, {s.maximum + row, s.sum + row, s.y + row * padded});
      add_product<T>(pair, s.scores, s.v, s.y + row * padded);
    });
  }

  walk.for_each_query([&](int64_t head, int64_t query) {
    const int64_t row = walk.row(head, query);
    store_scaled(s.y + row * padded, size, 1.0f / s.sum[row], at(task.out, query, head));
    task.log_sum_exp[head * task.sizes.length + query] =
        s.maximum[row] * walk.scale + logf(s.sum[row]);
  });
}

struct BackwardScratch {
  float *q, *q_panels, *dout, *dout_panels, *delta;  // of a block of queries
  float *k, *k_transposed, *v_transposed, *dk, *dv;  // of a block of keys: panels; [keys, D̂]
  float *weights, *dweights, *dweight_rows;          // [rows, weight_stride]
  float* dq;                                         // of all queries: [n, T, D̂]
  BackwardScratch(const BlockSizes& blocks, int64_t queries, bool in_pairs, Scratch& scratch)
      : q(scratch.take(blocks.queries * blocks.padded)),
        q_panels(scratch.take(blocks.queries * blocks.padded)),
        dout(scratch.take(blocks.queries * blocks.padded)),
        dout_panels(scratch.take(blocks.queries * blocks.padded)),
        delta(scratch.take(blocks.queries)),
        k(scratch.take(blocks.keys * blocks.padded)),
        k_transposed(scratch.take(blocks.keys * blocks.padded)),
        v_transposed(scratch.take(blocks.keys * blocks.padded)),
        dk(scratch.take(blocks.keys * blocks.padded)),
        dv(scratch.take(blocks.keys * blocks.padded)),
        weights(scratch.take(blocks.queries * blocks.weight_stride)),
        dweights(scratch.take(blocks.queries * blocks.weight_stride)),
        dweight_rows(scratch.take(in_pairs ? blocks.queries * blocks.weight_stride : 0)),
        dq(scratch.take(queries * blocks.padded)) {}
};

template <class T>
class Backward {
 public:
  Backward(const AttentionBackward<T>& task, Positions queries, float* memory)
      : task_(task),
        walk_(task.sizes, queries),
        product_(task.sizes.head_size, task.q.row, task.k.row, task.v.row, task.dout.row),
        scratch_(memory),
        s_(walk_.blocks, task.sizes.heads * walk_.num_queries(), kInPairs<T>, scratch_) {}

  void run(Positions key_range) {
    const int64_t last = smaller(key_range.end, walk_.queries.end);
    if (wants_dq()) clear(s_.dq, task_.sizes.heads * walk_.num_queries() * padded());
    for (int64_t key = key_range.begin; key < last; key += kKeyBlock) {
      const int64_t keys = smaller(kKeyBlock, task_.sizes.length - key);
      load_keys(key, keys);
      walk_.for_each_pair(key, keys, [&](const BlockPair& pair, int64_t head) {
        load_queries(pair, head);
        add(pair, head);
      });
      if (wants_dkv()) store_keys(key, keys);
    }
    if (wants_dq()) store_queries();
  }

 private:
  [[nodiscard]] bool wants_dq() const { return task_.dq.data != nullptr; }
  [[nodiscard]] bool wants_dkv() const { return task_.dk.data != nullptr; }
  [[nodiscard]] int64_t size() const { return task_.sizes.head_size; }
  [[nodiscard]] int64_t padded() const { return walk_.blocks.padded; }

  void load_keys(int64_t key, int64_t keys) {
    const T* const k = at(task_.k, key, 0);
    product_.pack_right(k, task_.k.row, keys, s_.k_transposed);
    product_.pack_right(at(task_.v, key, 0), task_.v.row, keys, s_.v_transposed);
    if (wants_dq()) pack_panels(k, task_.k.row, keys, size(), s_.k);
    clear(s_.dk, keys * padded());
    clear(s_.dv, keys * padded());
  }

  void load_queries(const BlockPair& pair, int64_t head) {
    const T* const q = at(task_.q, pair.query, head);
    const T* const out = at(task_.out, pair.query, head);
    const T* const dout = at(task_.dout, pair.query, head);
    pack_panels(q, task_.q.row, pair.rows, size(), s_.q_panels);
    pack_panels(dout, task_.dout.row, pair.rows, size(), s_.dout_panels);
    if (!product_.in_pairs()) {
      pack_wide(q, task_.q.row, pair.rows, size(), s_.q);
      pack_wide(dout, task_.dout.row, pair.rows, size(), s_.dout);
    }
    for (int64_t i = 0; i < pair.rows; ++i) {
      s_.delta[i] = dot(dout + i * task_.dout.row, out + i * task_.out.row, size());
    }
  }

  void add(const BlockPair& pair, int64_t head) {
    product_.multiply(pair, at(task_.q, pair.query, head), task_.q.row, s_.q, s_.k_transposed,
                      s_.weights);
    product_.multiply(pair, at(task_.dout, pair.query, head), task_.dout.row, s_.dout,
                      s_.v_transposed, s_.dweights);
    differentiate(pair, s_.weights, s_.dweights,
                  task_.log_sum_exp + head * task_.sizes.length + pair.query, s_.delta,
                  reinterpret_cast<T*>(s_.dweight_rows));
    if (wants_dkv()) {
      add_transposed_product<T>(pair, s_.weights, s_.dout_panels, s_.dv);
      add_transposed_product<T>(pair, s_.dweights, s_.q_panels, s_.dk);
    }
    if (wants_dq()) {
      add_product<T>(pair, kInPairs<T> ? s_.dweight_rows : s_.dweights, s_.k,
                     s_.dq + walk_.row(head, pair.query) * padded());
    }
  }

  void store_keys(int64_t key, int64_t keys) {
    for (int64_t i = 0; i < keys; ++i) {
      store_scaled(s_.dk + i * padded(), size(), walk_.scale, at(task_.dk, key + i, 0));
      store_scaled(s_.dv + i * padded(), size(), 1.0f, at(task_.dv, key + i, 0));
    }
  }

  void store_queries() {
    walk_.for_each_query([&](int64_t head, int64_t query) {
      store_scaled(s_.dq + walk_.row(head, query) * padded(), size(), walk_.scale,
                   at(task_.dq, query, head));
    });
  }

  const AttentionBackward<T>& task_;
  Walk walk_;
  ScoreProduct<T> product_;
  Scratch scratch_;
  BackwardScratch s_;
};

template <class T>
void backward(const AttentionBackward<T>& task, Positions queries, Positions keys, float* memory) {
  Backward<T>(task, queries, memory).run(keys);
}

template <class T>
int64_t scratch_size(const AttentionSizes& sizes) {
  const BlockSizes blocks(sizes);
  Scratch of_forward(nullptr), of_backward(nullptr);
  ForwardScratch(blocks, sizes.heads * sizes.length, of_forward);
  BackwardScratch(blocks, sizes.heads * sizes.length, kInPairs<T>, of_backward);
  return larger(of_forward.used(), of_backward.used());
}

template <class T>
constexpr AttentionKernels<T> kTable = {scratch_size<T>, forward<T>, backward<T>};

}  // namespace

extern const AttentionKernels<float> kFloatAttention;
extern const AttentionKernels<bfloat16> kBFloat16Attention;
const AttentionKernels<float> kFloatAttention = kTable<float>;
const AttentionKernels<bfloat16> kBFloat16Attention = kTable<bfloat16>;

}  // namespace crnet::cpu::CRNET_CPU_VARIANT
