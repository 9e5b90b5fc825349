// What attention does with one block of queries and one of keys. All of it stays in the cache; what
// lies above the diagonal is passed over tile by tile. D head size, D̂ that in whole panels. Where
// bf16 is multiplied in pairs, weights are rounded to it, and lie in pairs: of keys in a row, or of
// rows for a product that adds up over queries.
#pragma once

#include <math.h>

#include <type_traits>

#include "ops/cpu/attention_kernels.h"
#include "ops/cpu/pack.h"

namespace crnet::cpu::CRNET_CPU_VARIANT {
namespace {

constexpr float kLog2E = 1.44269504088896341f;

inline int64_t larger(int64_t a, int64_t b) {
  return a > b ? a : b;
}

// Queries [query, query + rows) against keys [key, key + keys), as positions.
struct BlockPair {
  int64_t query, rows, key, keys;
  int64_t size, padded;   // D, D̂
  int64_t weight_stride;  // of rows of scores and weights
  float scale;            // 1 / √D, by which scores are multiplied as they are read

  // How many of these keys the query in `row` sees.
  [[nodiscard]] int64_t seen(int64_t row) const {
    return larger(0, smaller(keys, query + row + 1 - key));
  }
  // The first row that sees key `index` of these.
  [[nodiscard]] int64_t first_row(int64_t index) const { return larger(0, key + index - query); }
};

// Calls f(row, rows) for each tile of rows.
template <class F>
inline void for_each_tile(int64_t rows, F&& f) {
  for (int64_t row = 0; row < rows; row += kTileRows) f(row, smaller(kTileRows, rows - row));
}

// scores [rows, keys] = x [rows, steps] · panels [keys / kTileColumns, steps, kTileColumns], where
// D is as many numbers or pairs
template <class Terms>
void score(const BlockPair& pair, const float* x, int64_t x_row, int64_t steps, const float* panels,
           float* scores) {
  for (int64_t column = 0; column < pair.keys; column += kTileColumns) {
    for_each_tile(pair.rows, [&](int64_t row, int64_t rows) {
      if (column >= pair.seen(row + rows - 1)) return;
      multiply_rows<Left::kRows, Terms>(
          rows, x + row * x_row, x_row, panels + column * steps, steps,
          Overwrite{scores + row * pair.weight_stride + column, pair.weight_stride});
    });
  }
}

// Rows of a head times rows of another over D: bf16 in pairs, if rows are whole pairs; else as fp32
// numbers.
template <class T>
class ScoreProduct {
 public:
  template <class... Strides>
  explicit ScoreProduct(int64_t size, Strides... strides)
      : size_(size),
        in_pairs_(kInPairs<T> && size % kDepth == 0 && ((strides % kDepth == 0) && ...)) {}

  [[nodiscard]] bool in_pairs() const { return in_pairs_; }

  // The right factor [rows, D] as panels.
  void pack_right(const T* x, int64_t stride, int64_t rows, float* panels) const {
    if (in_pairs_) {
      pack_transposed(reinterpret_cast<const float*>(x), stride / kDepth, rows, size_ / kDepth,
                      panels);
    } else {
      pack_transposed(x, stride, rows, size_, panels);
    }
  }

  // scores = left · right. Where it is not in pairs, `packed` is the left factor [rows, D̂]; else
  // there is room for it.
  void multiply(const BlockPair& pair, const T* left, int64_t stride, float* packed,
                const float* panels, float* scores) const {
    using Terms = typename TermsOf<T>::Type;
    if (!in_pairs_) {
      score<Numbers>(pair, packed, pair.padded, size_, panels, scores);
    } else if (can_be_read<T>(stride, size_)) {
      score<Terms>(pair, reinterpret_cast<const float*>(left), stride / kDepth, size_ / kDepth,
                   panels, scores);
    } else {
      for (int64_t i = 0; i < pair.rows; ++i) {
        memcpy(packed + i * pair.padded, left + i * stride, static_cast<size_t>(size_) * sizeof(T));
      }
      score<Terms>(pair, packed, pair.padded, size_ / kDepth, panels, scores);
    }
  }

 private:
  static constexpr int64_t kDepth = TermsOf<T>::kDepth;

  int64_t size_;
  bool in_pairs_;
};

// y [rows, D̂] += weights [rows, keys] · panels [D̂ / kTileColumns, steps of keys, kTileColumns]
template <class T>
void add_product(const BlockPair& pair, const float* weights, const float* panels, float* y) {
  const int64_t steps = steps_of<T>(pair.keys);
  for (int64_t d = 0; d < pair.padded; d += kTileColumns) {
    for_each_tile(pair.rows, [&](int64_t row, int64_t rows) {
      multiply_rows<Left::kRows, typename TermsOf<T>::Type>(
          rows, weights + row * pair.weight_stride, pair.weight_stride, panels + d * steps,
          steps_of<T>(pair.seen(row + rows - 1)), AddTo{y + row * pair.padded + d, pair.padded});
    });
  }
}

static_assert(kTileRows % 2 == 0 && kQueryBlock % 2 == 0);  // no pair of rows in two of them

// y [keys, D̂] += weightsᵀ [keys, rows] · panels [D̂ / kTileColumns, steps of rows, kTileColumns].
// The last pair of an odd number of rows is multiplied for every key: such a block is the last one,
// which sees all keys, so that zeros are there where it does not see one.
template <class T>
void add_transposed_product(const BlockPair& pair, const float* weights, const float* panels,
                            float* y) {
  const int64_t steps = steps_of<T>(pair.rows), stride = TermsOf<T>::kDepth * pair.weight_stride;
  for (int64_t d = 0; d < pair.padded; d += kTileColumns) {
    for_each_tile(pair.keys, [&](int64_t key, int64_t keys) {
      const int64_t step = smaller(pair.rows, pair.first_row(key)) / TermsOf<T>::kDepth;
      multiply_rows<Left::kColumns, typename TermsOf<T>::Type>(
          keys, weights + step * stride + key, stride, panels + d * steps + step * kTileColumns,
          steps - step, AddTo{y + key * pair.padded + d, pair.padded});
    });
  }
}

// Past the last column that the last row of a tile sees, in whole vectors.
inline int64_t tile_end(const BlockPair& pair, int64_t row, int64_t rows) {
  return round_up(pair.seen(row + rows - 1), kLanes);
}

inline float maximum_of(const float* x, int64_t count, float least) {
  Vector largest = Vector{} + least;
  for (int64_t j = 0; j < count; j += kLanes) {
    const Vector v = load_as<Vector>(x + j);
    largest = v > largest ? v : largest;
  }
  for (int i = 0; i < kLanes; ++i) least = largest[i] > least ? largest[i] : least;
  return least;
}

// What a query has met so far: its largest score, Σ e^(score − maximum), and the values weighted
// so.
struct RowState {
  float *maximum, *sum, *y;  // y [D̂]
};

// What weights are stored as in the place of scores.
template <class T>
using WeightOf = std::conditional_t<kInPairs<T>, T, float>;

// One row of scores becomes weights, zeros behind those that are seen.
template <class T>
void soften_row(float* scores, int64_t seen, int64_t end, const BlockPair& pair, RowState state) {
  auto* const weights = reinterpret_cast<WeightOf<T>*>(scores);
  const float unit = pair.scale * kLog2E;
  for (int64_t j = seen; j < end; ++j) scores[j] = -INFINITY;
  const float maximum = maximum_of(scores, end, *state.maximum), shift = maximum * unit;
  Vector sum = {};
  for (int64_t j = 0; j < end; j += kLanes) {
    const Vector weight = exp2_fast(load_as<Vector>(scores + j) * unit - shift);
    store_vector(weights + j, weight);
    sum += weight;
  }
  for (int64_t j = seen; j < end; ++j) store(weights + j, 0.0f);
  const float factor = expf((*state.maximum - maximum) * pair.scale);
  *state.maximum = maximum;
  *state.sum = *state.sum * factor + sum_of(sum);
  if (factor == 1.0f) return;
  for (int64_t d = 0; d < pair.padded; ++d) state.y[d] *= factor;
}

// Scores become weights; `state` is of the first row.
template <class T>
void soften(const BlockPair& pair, float* scores, RowState state) {
  for_each_tile(pair.rows, [&](int64_t row, int64_t rows) {
    const int64_t end = tile_end(pair, row, rows);
    if (end == 0) return;
    for (int64_t i = row; i < row + rows; ++i) {
      soften_row<T>(scores + i * pair.weight_stride, pair.seen(i), end, pair,
                    {state.maximum + i, state.sum + i, state.y + i * pair.padded});
    }
  });
}

// A row of scores that becomes p = e^(scores − log_sum_exp), and of dp that becomes p ⊙ (dp −
// delta).
struct GradientRow {
  float *p, *ds;
  float log_sum_exp, delta;

  void differentiate(const BlockPair& pair, int64_t end, int64_t seen, int64_t zeros_end) const {
    const float shift = log_sum_exp * kLog2E, unit = pair.scale * kLog2E;
    for (int64_t j = 0; j < end; j += kLanes) {
      const Vector weight = exp2_fast(load_as<Vector>(p + j) * unit - shift);
      store_vector(p + j, weight);
      store_vector(ds + j, weight * (load_as<Vector>(ds + j) - delta));
    }
    for (int64_t j = seen; j < zeros_end; ++j) p[j] = ds[j] = 0;
  }
};

// Two rows, `second` numbers apart, rounded and in pairs in the place of the first; and each by
// itself, `stride` apart, where `by_rows` is given. Without a second one (0) the first stands in
// its place: whatever it is multiplied by is 0.
inline void pair_rows(float* first, int64_t second, int64_t count, bfloat16* by_rows,
                      int64_t stride) {
  for (int64_t j = 0; j < count; j += kLanes) {
    const auto a = round_to_halves(load_as<Vector>(first + j));
    const auto b = round_to_halves(load_as<Vector>(first + second + j));
    store_vector(first + j, pair_up(widen<Vector>(a), widen<Vector>(b)));
    if (by_rows == nullptr) continue;
    memcpy(by_rows + j, &a, sizeof a);
    if (second != 0) memcpy(by_rows + stride + j, &b, sizeof b);
  }
}

// The same of all rows; zeros behind what is seen, as far as a transposed tile reads. Where T is
// multiplied in pairs, pairs of rows of p and ds stand in the place of the first of the two, and ds
// by rows in `ds_rows`, in the first half of rows as long as those; else `ds_rows` is not written.
template <class T>
void differentiate(const BlockPair& pair, float* scores, float* dp, const float* log_sum_exp,
                   const float* delta, T* ds_rows) {
  const int64_t stride = pair.weight_stride;
  for_each_tile(pair.rows, [&](int64_t row, int64_t rows) {
    const int64_t end = tile_end(pair, row, rows);
    const int64_t read = smaller(pair.keys, pair.seen(row + rows - 1) + kTileRows);
    const int64_t zeros_end = round_up(larger(end, read), kLanes);
    for (int64_t i = row; i < row + rows; ++i) {
      GradientRow{scores + i * stride, dp + i * stride, log_sum_exp[i], delta[i]}.differentiate(
          pair, end, pair.seen(i), kInPairs<T> ? zeros_end : larger(end, read));
    }
    if constexpr (kInPairs<T>) {
      for (int64_t i = row; i < row + rows; i += 2) {
        const int64_t second = i + 1 < row + rows ? stride : 0;
        pair_rows(scores + i * stride, second, zeros_end, nullptr, 0);
        pair_rows(dp + i * stride, second, zeros_end, ds_rows + 2 * i * stride, 2 * stride);
      }
    }
  });
}

}  // namespace
}  // namespace crnet::cpu::CRNET_CPU_VARIANT
