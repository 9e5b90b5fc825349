// Goto and van de Geijn's product (2008; doi:10.1145/1356052.1356053): panels of the right factor
// in the outer caches, rows of the left one in the inner cache, sums in registers. Compiled as
// kernels.cpp is.
#include "ops/cpu/product_kernels.h"

#include <type_traits>

#include "ops/cpu/pack.h"

namespace crnet::cpu::CRNET_CPU_VARIANT {
namespace {

// Three vectors of columns take fewer loads for each sum than two.
constexpr int kPanelVectors = 3, kPanelColumns = kPanelVectors * kLanes;
// A group of rows is one tile of the narrowest panel, or several tiles of a wider one.
constexpr int kGroup = kTileSums;
// Panels, and packed groups, lie apart by a line more than their size, which often is a power of
// two: else they would meet in few sets of the cache.
constexpr int64_t kLine = 16;

// Whether factors of T can be read where they are.
template <class T>
constexpr bool kIsAsPacked = sizeof(T) == sizeof(float) || kInPairs<T>;

// What `depth` takes in a panel's columns or a group's rows.
template <class T>
constexpr int64_t steps_of(int64_t depth) {
  return (depth + TermsOf<T>::kDepth - 1) / TermsOf<T>::kDepth;
}
inline int64_t panel_stride(int64_t steps) {
  return kPanelColumns * steps + kLine;
}
inline int64_t group_stride(int64_t steps) {
  return kGroup * steps + kLine;
}
static_assert(kProductRows * kProductDepth + kProductRows / kGroup * kLine <= kProductScratch);
// Pieces begin where groups and panels do, so how they are split does not change a bit.
static_assert(kProductRowUnit % kGroup == 0 && kProductRows % kProductRowUnit == 0);
static_assert(kProductColumnUnit % kPanelColumns == 0 && kProductColumns % kProductColumnUnit == 0);

// Rows ahead that are fetched where a matrix is read across: processors do not see them coming.
constexpr int64_t kAhead = 8;

// Two vectors of widened bf16 numbers as pairs.
template <class V>
inline V pair_up(V first, V second) {
  using Bits = typename VectorOf<uint32_t, sizeof(V) / sizeof(float)>::Type;
  return reinterpret_cast<V>(reinterpret_cast<Bits>(second) | reinterpret_cast<Bits>(first) >> 16);
}

// Step k of a matrix whose depth lies across: the numbers, or pairs, of `row` and what is `across`
// of it; zeros behind `count`.
template <class V, class T>
inline V load_step(const T* row, int64_t across, bool has_second, int64_t count) {
  const V first = load_part<V>(row, count);
  if constexpr (kInPairs<T>) {
    return pair_up(first, has_second ? load_part<V>(row + across, count) : V{});
  } else {
    return first;
  }
}

template <class T>
void fetch(const T* from, int64_t count) {
  for (int64_t i = 0; i < count; i += 64 / sizeof(T)) __builtin_prefetch(from + i);
}

// The panel that begins at `column`, of whole vectors.
inline int64_t panel_width(int64_t column, int64_t columns) {
  return smaller(kPanelColumns, round_up(columns - column, kLanes));
}

int64_t num_panels(int64_t columns) {
  return (columns + kPanelColumns - 1) / kPanelColumns;
}

template <class T>
int64_t panels_size(int64_t depth, int64_t columns) {
  return num_panels(columns) * panel_stride(steps_of<T>(depth));
}

// Row by row, as the matrix lies in memory.
template <class T>
void pack_rows(const PackTask<T>& task, int64_t begin, int64_t end) {
  constexpr int64_t kDepth = TermsOf<T>::kDepth;
  const int64_t stride = panel_stride(steps_of<T>(task.depth));
  for (int64_t step = begin; step < end; ++step) {
    const int64_t k = step * kDepth;
    const T* const row = task.right.data + k * task.right.row;
    for (int64_t i = kAhead; i < kAhead + kDepth && k + i < task.depth; ++i) {
      fetch(row + i * task.right.row, task.columns);
    }
    for (int64_t column = 0; column < task.columns; column += kPanelColumns) {
      const int64_t width = panel_width(column, task.columns);
      float* const to = task.panels + column / kPanelColumns * stride + step * width;
      for (int64_t j = 0; j < width; j += kLanes) {
        store_vector(to + j, load_step<Vector>(row + column + j, task.right.row, k + 1 < task.depth,
                                               task.columns - column - j));
      }
    }
  }
}

// The matrix lies column by column. Pairs lie there as they are, and are moved like numbers.
template <class T>
void pack_columns(const PackTask<T>& task, int64_t begin, int64_t end) {
  constexpr int64_t kDepth = TermsOf<T>::kDepth;
  using Element = std::conditional_t<kInPairs<T>, float, T>;
  const int64_t steps = steps_of<T>(task.depth), stride = task.right.column / kDepth;
  for (int64_t panel = begin; panel < end; ++panel) {
    const int64_t column = panel * kPanelColumns, width = panel_width(column, task.columns);
    const auto* const from =
        reinterpret_cast<const Element*>(task.right.data + column * task.right.column);
    pack_transposed_panel(from, stride, task.columns - column, steps, width,
                          task.panels + panel * panel_stride(steps));
  }
}

template <class T>
void pack_piece(const PackTask<T>& task, int64_t piece, int64_t pieces) {
  if (task.depth == 0) return;
  if (task.right.column == 1) {
    const int64_t steps = steps_of<T>(task.depth);
    return pack_rows(task, steps * piece / pieces, steps * (piece + 1) / pieces);
  }
  const int64_t panels = num_panels(task.columns);
  pack_columns(task, panels * piece / pieces, panels * (piece + 1) / pieces);
}

template <class From, class To>
void copy_row(const From* from, int64_t count, To* to) {
  int64_t j = 0;
  for (; j + kLanes <= count; j += kLanes) store_vector(to + j, load_as<Vector>(from + j));
  for (; j < count; ++j) store(to + j, load(from + j));
}

// A group of rows of the left factor, as a tile reads it.
struct Group {
  const float* data;
  int64_t stride;
  Left layout;
};

// The left factor's rows in groups, read where they are if that can be.
template <class T>
class LeftRows {
 public:
  LeftRows(const ProductTask<T>& task, float* scratch)
      : task_(task),
        scratch_(scratch),
        steps_(steps_of<T>(task.depth)),
        num_in_place_(count_in_place()) {
    if (task.left.column != 1) {
      pack_columns();
    } else {
      for (int64_t row = num_in_place_; row < task.rows; row += kGroup) pack_rows(row);
    }
  }

  [[nodiscard]] Group at(int64_t row) const {
    if (row < num_in_place_) {
      return {reinterpret_cast<const float*>(task_.left.data + row * task_.left.row),
              task_.left.row / kDepth, Left::kRows};
    }
    if (task_.left.column != 1) return {packed(row), kGroup, Left::kColumns};
    return {packed(row), steps_, Left::kRows};
  }

 private:
  static constexpr int64_t kDepth = TermsOf<T>::kDepth;

  [[nodiscard]] float* packed(int64_t row) const {
    return scratch_ + row / kGroup * group_stride(steps_);
  }

  // Whole groups of rows, of whole pairs. Rows that lie apart by whole pages meet in few sets of
  // the cache.
  [[nodiscard]] int64_t count_in_place() const {
    constexpr int64_t kPage = 4096 / sizeof(T);
    if (!kIsAsPacked<T> || task_.left.column != 1) return 0;
    if (task_.depth % kDepth != 0 || task_.left.row % kDepth != 0) return 0;
    return task_.left.row % kPage == 0 ? 0 : task_.rows / kGroup * kGroup;
  }

  // As groups [steps, kGroup], padded with zeros.
  void pack_columns() {
    constexpr int kWidth = kGroup % 8 == 0 ? 8 : 4;
    using V = typename VectorOf<float, kWidth>::Type;
    for (int64_t step = 0; step < steps_; ++step) {
      const int64_t k = step * kDepth;
      const T* const from = task_.left.data + k * task_.left.column;
      for (int64_t i = kAhead; i < kAhead + kDepth && k + i < task_.depth; ++i) {
        fetch(from + i * task_.left.column, task_.rows);
      }
      float* to = scratch_ + step * kGroup;
      for (int64_t row = 0; row < task_.rows; row += kGroup, to += group_stride(steps_)) {
        for (int i = 0; i < kGroup; i += kWidth) {
          store_vector(to + i, load_step<V>(from + row + i, task_.left.column, k + 1 < task_.depth,
                                            task_.rows - row - i));
        }
      }
    }
  }

  // One group [kGroup, steps]. The last row stands in the place of those behind it.
  void pack_rows(int64_t row) {
    for (int64_t i = 0; i < kGroup; ++i) {
      const T* const from = task_.left.data + smaller(row + i, task_.rows - 1) * task_.left.row;
      float* const to = packed(row) + i * steps_;
      if constexpr (kInPairs<T>) {
        if (task_.depth % kDepth != 0) to[steps_ - 1] = 0;
        memcpy(to, from, task_.depth * sizeof(T));
      } else {
        copy_row(from, task_.depth, to);
      }
    }
  }

  const ProductTask<T>& task_;
  float* scratch_;
  int64_t steps_, num_in_place_;
};

// Adds what a sum is added to and lets it go to its place, from (row, column) of the task on.
template <class T, class Out>
struct Finish {
  Out* out;
  int64_t out_row;
  const float* before;
  int64_t before_row;
  const T* base;
  int64_t base_row;
  float factor;

  Finish(const ProductTask<T>& task, Out* to, int64_t to_row, int64_t row, int64_t column)
      : out(to + row * to_row + column),
        out_row(to_row),
        before(task.before == nullptr ? nullptr : task.before + row * task.before_row + column),
        before_row(task.before_row),
        base(task.base == nullptr ? nullptr : task.base + row * task.base_row + column),
        base_row(task.base_row),
        factor(task.factor) {}

  void put(int64_t i, int64_t j, Vector sum) const {
    if (before != nullptr) {
      sum += load_as<Vector>(before + i * before_row + j);
    } else if (base != nullptr) {
      sum += factor * load_as<Vector>(base + i * base_row + j);
    }
    store_vector(out + i * out_row + j, sum);
  }
};

// The tiles of a group that have some of its `rows`, times a panel; make_sink(row) is where the
// tile goes that begins with that row.
template <class Terms, int kVectors, class MakeSink>
void multiply_group(const Group& group, int64_t rows, const float* panel, int64_t steps,
                    MakeSink&& make_sink) {
  constexpr int kRows = kGroup / kVectors;
  for (int64_t row = 0; row < rows; row += kRows) {
    if (group.layout == Left::kRows) {
      multiply_tile<kRows, kVectors, Left::kRows, Terms>(
          group.data + row * group.stride, group.stride, panel, steps, make_sink(row));
    } else {
      multiply_tile<kRows, kVectors, Left::kColumns, Terms>(group.data + row, group.stride, panel,
                                                            steps, make_sink(row));
    }
  }
}

template <class T>
void add_row(const T* from, float factor, int64_t count, float* sums) {
  int64_t j = 0;
  for (; j + kLanes <= count; j += kLanes) {
    store_vector(sums + j, load_as<Vector>(sums + j) + factor * load_as<Vector>(from + j));
  }
  for (; j < count; ++j) sums[j] += factor * load(from + j);
}

// Finishes one row of a tile; `column` counts from the task's first.
template <class T>
void finish_row(const ProductTask<T>& task, int64_t row, int64_t column, int64_t count,
                float* sums) {
  if (task.before != nullptr) {
    add_row(task.before + row * task.before_row + column, 1, count, sums);
  } else if (task.base != nullptr) {
    add_row(task.base + row * task.base_row + column, task.factor, count, sums);
  }
  if (task.after != nullptr) {
    copy_row(sums, count, task.after + row * task.after_row + column);
  } else {
    copy_row(sums, count, task.out + row * task.out_row + column);
  }
}

// Rows of a tile's result, and of what it is added to, on their way while the tile is multiplied.
template <class T>
void fetch_rows(const T* from, int64_t stride, int64_t rows, int64_t columns) {
  for (int64_t i = 0; i < rows; ++i) {
    fetch(from + i * stride, columns);
    __builtin_prefetch(from + i * stride + columns - 1);
  }
}

// One group of rows times one panel.
template <int kVectors, class T>
void multiply_panel(const ProductTask<T>& task, const Group& group, int64_t row, int64_t column) {
  using Terms = typename TermsOf<T>::Type;
  constexpr int64_t kWidth = kVectors * kLanes;
  const int64_t steps = steps_of<T>(task.depth);
  const int64_t rows = smaller(kGroup, task.rows - row);
  const int64_t count = smaller(kWidth, task.columns - column);
  const float* const panel =
      task.panels + (task.first_column + column) / kPanelColumns * panel_stride(steps);
  if (task.after != nullptr) {
    fetch_rows(task.after + row * task.after_row + column, task.after_row, rows, count);
  } else {
    fetch_rows(task.out + row * task.out_row + column, task.out_row, rows, count);
  }
  if (task.before == nullptr && task.base != nullptr) {
    fetch_rows(task.base + row * task.base_row + column, task.base_row, rows, count);
  }
  float* const after = task.after + row * task.after_row + column;  // null is never read
  const auto multiply_into = [&](auto&& make_sink) {
    multiply_group<Terms, kVectors>(group, kGroup, panel, steps, make_sink);
  };
  if (rows < kGroup || count < kWidth) {
    alignas(64) float sums[kGroup * kWidth];
    multiply_group<Terms, kVectors>(group, rows, panel, steps, [&](int64_t i) {
      return Overwrite{sums + i * kWidth, kWidth};
    });
    for (int64_t i = 0; i < rows; ++i) finish_row(task, row + i, column, count, sums + i * kWidth);
  } else if (task.after == nullptr) {
    multiply_into(
        [&](int64_t i) { return Finish<T, T>(task, task.out, task.out_row, row + i, column); });
  } else if (task.before == nullptr && task.base == nullptr) {
    multiply_into([&](int64_t i) { return Overwrite{after + i * task.after_row, task.after_row}; });
  } else if (task.before == task.after) {
    multiply_into([&](int64_t i) { return AddTo{after + i * task.after_row, task.after_row}; });
  } else {
    multiply_into([&](int64_t i) {
      return Finish<T, float>(task, task.after, task.after_row, row + i, column);
    });
  }
}

template <class T>
void multiply(const ProductTask<T>& task, float* scratch) {
  const LeftRows<T> left(task, scratch);
  for (int64_t column = 0; column < task.columns; column += kPanelColumns) {
    for (int64_t row = 0; row < task.rows; row += kGroup) {
      const Group group = left.at(row);
      switch (panel_width(column, task.columns) / kLanes) {
        case 1:
          multiply_panel<1>(task, group, row, column);
          break;
        case 2:
          multiply_panel<2>(task, group, row, column);
          break;
        default:
          multiply_panel<3>(task, group, row, column);
          break;
      }
    }
  }
}

template <class T>
constexpr ProductKernels<T> kTable = {TermsOf<T>::kDepth, panels_size<T>, pack_piece<T>,
                                      multiply<T>};

}  // namespace

extern const ProductKernels<float> kFloatProducts;
extern const ProductKernels<bfloat16> kBFloat16Products;
const ProductKernels<float> kFloatProducts = kTable<float>;
const ProductKernels<bfloat16> kBFloat16Products = kTable<bfloat16>;

}  // namespace crnet::cpu::CRNET_CPU_VARIANT
