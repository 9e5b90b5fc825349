// Goto and van de Geijn's product (2008; doi:10.1145/1356052.1356053): panels of the right factor
// in the outer caches, rows of the left one in the inner cache, sums in registers. Compiled as
// kernels.cpp is.
#include "ops/cpu/product_kernels.h"

#include "ops/cpu/product_layout.h"

namespace crnet::cpu::CRNET_CPU_VARIANT {
namespace {

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
  const auto multiply_into = [&](auto&& make_sink) {
    multiply_group<Terms, kVectors>(group, kGroup, panel, steps, make_sink);
  };
  const auto after_at = [&](int64_t i) { return task.after + (row + i) * task.after_row + column; };
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
    multiply_into([&](int64_t i) { return Overwrite{after_at(i), task.after_row}; });
  } else if (task.before == task.after) {
    multiply_into([&](int64_t i) { return AddTo{after_at(i), task.after_row}; });
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
constexpr ProductKernels<T> kTable = {TermsOf<T>::kDepth, reads_in_place<T>,    panels_size<T>,
                                      pack_piece<T, T>,   pack_piece<T, float>, multiply<T>};

}  // namespace

extern const ProductKernels<float> kFloatProducts;
extern const ProductKernels<bfloat16> kBFloat16Products;
const ProductKernels<float> kFloatProducts = kTable<float>;
const ProductKernels<bfloat16> kBFloat16Products = kTable<bfloat16>;

}  // namespace crnet::cpu::CRNET_CPU_VARIANT
