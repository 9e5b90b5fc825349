// How a product's factors lie as its tiles read them: panels of the right one's columns, groups of
// the left one's rows. bf16 is widened, or in pairs.
#pragma once

#include <type_traits>

#include "ops/cpu/pack.h"
#include "ops/cpu/product_kernels.h"

namespace crnet::cpu::CRNET_CPU_VARIANT {
namespace {

// Three vectors of columns take fewer loads for each sum than two.
constexpr int kPanelVectors = 3, kPanelColumns = kPanelVectors * kLanes;
// A group of rows is one tile of the narrowest panel, or several tiles of a wider one.
constexpr int kGroup = kTileSums;
// Panels, and packed groups, lie apart by a line more than their size, which often is a power of
// two: else they would meet in few sets of the cache.
constexpr int64_t kLine = 16;

inline int64_t panel_stride(int64_t steps) {
  return kPanelColumns * steps + kLine;
}
inline int64_t group_stride(int64_t steps) {
  return kGroup * steps + kLine;
}
static_assert(kProductRows * kProductDepth + kProductRows / kGroup * kLine <= kProductScratch);
// Pieces of what is packed together begin where groups and panels do; what is packed apart, where
// vectors do. So an element is always in a vector, or always behind the last whole one, and how a
// product is split does not change a bit.
static_assert(kProductRowUnit % kGroup == 0 && kProductRows % kProductRowUnit == 0);
static_assert(kProductColumnUnit % kPanelColumns == 0 && kProductColumns % kProductColumnUnit == 0);
static_assert(kProductLanes % kLanes == 0);

// Rows ahead that are fetched where a matrix is read across: processors do not see them coming.
constexpr int64_t kAhead = 8;

template <class T>
void fetch(const T* from, int64_t count) {
  for (int64_t i = 0; i < count; i += 64 / sizeof(T)) __builtin_prefetch(from + i);
}

// The panel that begins at `column`, of whole vectors.
inline int64_t panel_width(int64_t column, int64_t columns) {
  return smaller(kPanelColumns, round_up(columns - column, kLanes));
}

inline int64_t num_panels(int64_t columns) {
  return (columns + kPanelColumns - 1) / kPanelColumns;
}

template <class T>
int64_t panels_size(int64_t depth, int64_t columns) {
  return num_panels(columns) * panel_stride(steps_of<T>(depth));
}

// The elements of a right factor for a product of T, and two that lie one after another.
template <class T, class Right>
struct Elements {
  using Single = Right;
  using Pair = float;
};
template <>
struct Elements<bfloat16, float> {
  using Single = Rounded;
  using Pair = RoundedPair;
};

// Row by row, as the matrix lies in memory.
template <class T, class Right>
void pack_rows(const PackTask<Right>& task, int64_t begin, int64_t end) {
  constexpr int64_t kDepth = TermsOf<T>::kDepth;
  using Element = typename Elements<T, Right>::Single;
  const int64_t stride = panel_stride(steps_of<T>(task.depth));
  for (int64_t step = begin; step < end; ++step) {
    const int64_t k = step * kDepth;
    const auto* const row = reinterpret_cast<const Element*>(task.right.data + k * task.right.row);
    for (int64_t i = kAhead; i < kAhead + kDepth && k + i < task.depth; ++i) {
      fetch(row + i * task.right.row, task.columns);
    }
    for (int64_t column = 0; column < task.columns; column += kPanelColumns) {
      const int64_t width = panel_width(column, task.columns);
      float* const to = task.panels + column / kPanelColumns * stride + step * width;
      for (int64_t j = 0; j < width; j += kLanes) {
        store_vector(to + j,
                     load_step<Vector, kInPairs<T>>(row + column + j, task.right.row,
                                                    k + 1 < task.depth, task.columns - column - j));
      }
    }
  }
}

// The matrix lies column by column. Pairs lie there as they are, and are moved like numbers.
template <class T, class Right>
void pack_columns(const PackTask<Right>& task, int64_t begin, int64_t end) {
  constexpr int64_t kDepth = TermsOf<T>::kDepth;
  using Of = Elements<T, Right>;
  using Element = std::conditional_t<kInPairs<T>, typename Of::Pair, typename Of::Single>;
  const int64_t steps = steps_of<T>(task.depth), stride = task.right.column / kDepth;
  for (int64_t panel = begin; panel < end; ++panel) {
    const int64_t column = panel * kPanelColumns, width = panel_width(column, task.columns);
    const auto* const from =
        reinterpret_cast<const Element*>(task.right.data + column * task.right.column);
    pack_transposed_panel(from, stride, task.columns - column, steps, width,
                          task.panels + panel * panel_stride(steps));
  }
}

template <class T, class Right>
void pack_piece(const PackTask<Right>& task, int64_t piece, int64_t pieces) {
  if (task.depth == 0) return;
  if (task.right.column == 1) {
    const int64_t steps = steps_of<T>(task.depth);
    return pack_rows<T>(task, steps * piece / pieces, steps * (piece + 1) / pieces);
  }
  const int64_t panels = num_panels(task.columns);
  pack_columns<T>(task, panels * piece / pieces, panels * (piece + 1) / pieces);
}

template <class From, class To>
void copy_row(const From* from, int64_t count, To* to) {
  int64_t j = 0;
  for (; j + kLanes <= count; j += kLanes) store_vector(to + j, load_as<Vector>(from + j));
  for (; j < count; ++j) store(to + j, load(from + j));
}

template <class T>
bool reads_in_place(const MatrixView<T>& left, int64_t depth) {
  return left.column == 1 && can_be_read<T>(left.row, depth);
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

  // Whole groups.
  [[nodiscard]] int64_t count_in_place() const {
    return reads_in_place(task_.left, task_.depth) ? task_.rows / kGroup * kGroup : 0;
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
          store_vector(to + i,
                       load_step<V, kInPairs<T>>(from + row + i, task_.left.column,
                                                 k + 1 < task_.depth, task_.rows - row - i));
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

}  // namespace
}  // namespace crnet::cpu::CRNET_CPU_VARIANT
