// Goto and van de Geijn's product (2008; doi:10.1145/1356052.1356053): panels of the right factor
// in the outer caches, rows of the left one in the inner cache, sums in registers. Compiled as
// kernels.cpp is.
#include "ops/cpu/product_kernels.h"

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

inline int64_t panel_stride(int64_t depth) {
  return kPanelColumns * depth + kLine;
}
inline int64_t group_stride(int64_t depth) {
  return kGroup * depth + kLine;
}
static_assert(kProductRows * kProductDepth + kProductRows / kGroup * kLine <= kProductScratch);
// Pieces begin where groups and panels do, so how they are split does not change a bit.
static_assert(kProductRowUnit % kGroup == 0 && kProductRows % kProductRowUnit == 0);
static_assert(kProductColumnUnit % kPanelColumns == 0 && kProductColumns % kProductColumnUnit == 0);

// Rows ahead that are fetched where a matrix is read across: processors do not see them coming.
constexpr int64_t kAhead = 8;
using Four = VectorOf<float, 4>::Type;

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

int64_t panels_size(int64_t depth, int64_t columns) {
  return num_panels(columns) * panel_stride(depth);
}

// Row by row, as the matrix lies in memory.
template <class T>
void pack_rows(const PackTask<T>& task, int64_t begin, int64_t end) {
  for (int64_t k = begin; k < end; ++k) {
    const T* const row = task.right.data + k * task.right.row;
    if (k + kAhead < end) fetch(row + kAhead * task.right.row, task.columns);
    for (int64_t column = 0; column < task.columns; column += kPanelColumns) {
      const int64_t width = panel_width(column, task.columns);
      float* const to = task.panels + column / kPanelColumns * panel_stride(task.depth) + k * width;
      for (int64_t j = 0; j < width; j += kLanes) {
        store_vector(to + j, load_part<Vector>(row + column + j, task.columns - column - j));
      }
    }
  }
}

// The matrix lies column by column.
template <class T>
void pack_columns(const PackTask<T>& task, int64_t begin, int64_t end) {
  for (int64_t panel = begin; panel < end; ++panel) {
    const int64_t column = panel * kPanelColumns, width = panel_width(column, task.columns);
    pack_transposed_panel(task.right.data + column * task.right.column, task.right.column,
                          task.columns - column, task.depth, width,
                          task.panels + panel * panel_stride(task.depth));
  }
}

template <class T>
void pack_piece(const PackTask<T>& task, int64_t piece, int64_t pieces) {
  if (task.depth == 0) return;
  if (task.right.column == 1) {
    return pack_rows(task, task.depth * piece / pieces, task.depth * (piece + 1) / pieces);
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
      : task_(task), scratch_(scratch), num_in_place_(count_in_place()) {
    if (task.left.column != 1) {
      pack_columns();
    } else {
      for (int64_t row = num_in_place_; row < task.rows; row += kGroup) pack_rows(row);
    }
  }

  [[nodiscard]] Group at(int64_t row) const {
    if constexpr (sizeof(T) == sizeof(float)) {
      if (row < num_in_place_) {
        return {task_.left.data + row * task_.left.row, task_.left.row, Left::kRows};
      }
    }
    if (task_.left.column != 1) return {packed(row), kGroup, Left::kColumns};
    return {packed(row), task_.depth, Left::kRows};
  }

 private:
  [[nodiscard]] float* packed(int64_t row) const {
    return scratch_ + row / kGroup * group_stride(task_.depth);
  }

  // Whole groups of fp32 rows. Rows that lie apart by whole pages meet in few sets of the cache.
  [[nodiscard]] int64_t count_in_place() const {
    constexpr int64_t kPage = 1024;
    if (sizeof(T) != sizeof(float) || task_.left.column != 1) return 0;
    return task_.left.row % kPage == 0 ? 0 : task_.rows / kGroup * kGroup;
  }

  // As groups [depth, kGroup], padded with zeros.
  void pack_columns() {
    const int64_t whole = task_.rows / kGroup * kGroup;
    for (int64_t k = 0; k < task_.depth; ++k) {
      const T* const from = task_.left.data + k * task_.left.column;
      if (k + kAhead < task_.depth) fetch(from + kAhead * task_.left.column, task_.rows);
      float* to = scratch_ + k * kGroup;
      for (int64_t row = 0; row < whole; row += kGroup, to += group_stride(task_.depth)) {
        for (int i = 0; i < kGroup; i += 4) store_vector(to + i, load_as<Four>(from + row + i));
      }
      for (int64_t i = whole; i < round_up(task_.rows, kGroup); ++i) {
        to[i - whole] = i < task_.rows ? load(from + i) : 0.0f;
      }
    }
  }

  // One group [kGroup, depth]. The last row stands in the place of those behind it.
  void pack_rows(int64_t row) {
    for (int64_t i = 0; i < kGroup; ++i) {
      const T* const from = task_.left.data + smaller(row + i, task_.rows - 1) * task_.left.row;
      copy_row(from, task_.depth, packed(row) + i * task_.depth);
    }
  }

  const ProductTask<T>& task_;
  float* scratch_;
  int64_t num_in_place_;
};

// c [kGroup, kVectors · kLanes] (+)= a group of rows times a panel
template <int kVectors, Into kInto>
void multiply_group(const Group& group, const float* panel, int64_t depth, float* c,
                    int64_t c_stride) {
  constexpr int kRows = kGroup / kVectors;
  for (int row = 0; row < kGroup; row += kRows) {
    if (group.layout == Left::kRows) {
      multiply_tile<kRows, kVectors, Left::kRows, kInto>(group.data + row * group.stride,
                                                         group.stride, panel, depth,
                                                         c + row * c_stride, c_stride);
    } else {
      multiply_tile<kRows, kVectors, Left::kColumns, kInto>(group.data + row, group.stride, panel,
                                                            depth, c + row * c_stride, c_stride);
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
  constexpr int64_t kWidth = kVectors * kLanes;
  const int64_t rows = smaller(kGroup, task.rows - row);
  const int64_t count = smaller(kWidth, task.columns - column);
  const float* const panel =
      task.panels + (task.first_column + column) / kPanelColumns * panel_stride(task.depth);
  if (task.after != nullptr) {
    fetch_rows(task.after + row * task.after_row + column, task.after_row, rows, count);
  } else {
    fetch_rows(task.out + row * task.out_row + column, task.out_row, rows, count);
  }
  if (task.before == nullptr && task.base != nullptr) {
    fetch_rows(task.base + row * task.base_row + column, task.base_row, rows, count);
  }
  if constexpr (sizeof(T) == sizeof(float)) {
    const bool is_whole = rows == kGroup && count == kWidth;
    float* const out = task.out + row * task.out_row + column;
    if (is_whole && task.before == nullptr && task.base == nullptr) {
      return multiply_group<kVectors, Into::kOverwrite>(group, panel, task.depth, out,
                                                        task.out_row);
    }
    if (is_whole && task.before == task.out) {
      return multiply_group<kVectors, Into::kAdd>(group, panel, task.depth, out, task.out_row);
    }
  }
  alignas(64) float sums[kGroup * kWidth];
  multiply_group<kVectors, Into::kOverwrite>(group, panel, task.depth, sums, kWidth);
  for (int64_t i = 0; i < rows; ++i) finish_row(task, row + i, column, count, sums + i * kWidth);
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
constexpr ProductKernels<T> kTable = {panels_size, pack_piece<T>, multiply<T>};

}  // namespace

extern const ProductKernels<float> kFloatProducts;
extern const ProductKernels<bfloat16> kBFloat16Products;
const ProductKernels<float> kFloatProducts = kTable<float>;
const ProductKernels<bfloat16> kBFloat16Products = kTable<bfloat16>;

}  // namespace crnet::cpu::CRNET_CPU_VARIANT
