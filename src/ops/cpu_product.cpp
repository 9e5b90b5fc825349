#include "ops/cpu_product.h"

#include <ATen/Parallel.h>
#include <ATen/record_function.h>

#include <algorithm>

#include "ops/cpu/dispatch.h"
#include "ops/cpu/product_kernels.h"
#include "ops/parallel.h"

namespace crnet::cpu {
namespace {

using torch::Tensor;

// Panels that are packed before they are multiplied, 8 MiB: threads wait for each other after both.
constexpr int64_t kPanelNumbers = 2 << 20;

// Rows or columns lie one after another.
Tensor readable(const Tensor& t) {
  return t.stride(0) == 1 || t.stride(1) == 1 ? t : t.contiguous();
}

// From element (row, column) on. Of a single row or column the other stride is not read.
template <class T>
MatrixView<T> view(const Tensor& t, int64_t row, int64_t column) {
  return {const_data<T>(t) + row * t.stride(0) + column * t.stride(1), t.stride(0), t.stride(1)};
}

// Blocks of the depth of about one size.
int64_t depth_step(int64_t K) {
  const int64_t blocks = std::max<int64_t>(1, at::divup(K, kProductDepth));
  return std::max<int64_t>(1, at::divup(K, blocks));
}

// Piece `piece` of `pieces` of [0, total), in whole units.
struct Range {
  int64_t begin, end;
  Range(int64_t piece, int64_t pieces, int64_t total, int64_t unit) {
    const int64_t units = at::divup(total, unit);
    begin = std::min(units * piece / pieces * unit, total);
    end = std::min(units * (piece + 1) / pieces * unit, total);
  }
};

// A multiple of the threads where that can be, none of more rows than a kernel takes, nor of so few
// that reading the panels would take longer than multiplying.
int64_t count_row_pieces(int64_t M, int64_t threads) {
  const int64_t least = at::divup(M, kProductRows);
  if (least == 1) return 1;
  return std::max(least,
                  std::min(at::divup(least, threads) * threads, at::divup(M, 2 * kProductRowUnit)));
}

template <class T>
class Product {
 public:
  Product(Variant variant, const Tensor& out, const Tensor& left, const Tensor& right,
          const Tensor& base, float factor)
      : kernels_(product_kernels<T>(variant)),
        out_(out),
        left_(left),
        right_(right),
        base_(base),
        factor_(factor),
        M_(left.size(0)),
        K_(left.size(1)),
        N_(right.size(1)),
        depth_(depth_step(K_)) {}

  void run() {
    const auto fp32 = out_.options().dtype(torch::kFloat32);
    const int64_t width = std::min(N_, kProductColumns);
    panels_stride_ = kernels_.panels_size(depth_, width);
    blocks_ = std::max<int64_t>(1, at::divup(K_, depth_));  // one where K is 0
    const int64_t together = std::clamp<int64_t>(kPanelNumbers / panels_stride_, 1, blocks_);
    panels_ = torch::empty({together * panels_stride_}, fp32);
    if (sizeof(T) != sizeof(float) && blocks_ > 1) sums_ = torch::empty({M_, width}, fp32);
    for (int64_t j = 0; j < N_; j += kProductColumns) {
      for (int64_t block = 0; block < blocks_; block += together) {
        const Blocks blocks{block, std::min(block + together, blocks_)};
        pack(j, blocks);
        add(j, blocks);
      }
    }
  }

 private:
  // Of the depth.
  struct Blocks {
    int64_t begin, end;
  };
  struct Sizes {
    int64_t rows, depth, columns;
  };

  [[nodiscard]] int64_t depth_of(int64_t block) const {
    return std::min(depth_, K_ - block * depth_);
  }
  [[nodiscard]] int64_t columns_of(int64_t j) const { return std::min(kProductColumns, N_ - j); }
  [[nodiscard]] float* panels_of(int64_t block, Blocks blocks) const {
    return data<float>(panels_) + (block - blocks.begin) * panels_stride_;
  }

  void pack(int64_t j, Blocks blocks) const {
    const int64_t pieces = at::get_num_threads();
    parallel_for(0, (blocks.end - blocks.begin) * pieces, 1, [&](int64_t first, int64_t last) {
      for (int64_t index = first; index < last; ++index) {
        const int64_t block = blocks.begin + index / pieces;
        kernels_.pack({view<T>(right_, block * depth_, j), depth_of(block), columns_of(j),
                       panels_of(block, blocks)},
                      index % pieces, pieces);
      }
    });
  }

  // The threads share the rows; where these are few, the columns as well, since panels are read for
  // every piece of rows.
  void add(int64_t j, Blocks blocks) const {
    const int64_t threads = at::get_num_threads();
    const int64_t row_pieces = count_row_pieces(M_, threads);
    const int64_t column_pieces = at::divup(threads, row_pieces);
    for_each_task(row_pieces * column_pieces, kProductScratch, [&](int64_t piece, float* scratch) {
      const Range rows(piece / column_pieces, row_pieces, M_, kProductRowUnit);
      const Range columns(piece % column_pieces, column_pieces, columns_of(j), kProductColumnUnit);
      if (columns.begin == columns.end) return;
      for (int64_t block = blocks.begin; block < blocks.end; ++block) {
        auto task = task_at(rows.begin, j, columns.begin, block,
                            {rows.end - rows.begin, depth_of(block), columns.end - columns.begin});
        task.panels = panels_of(block, blocks);
        kernels_.multiply(task, scratch);
      }
    });
  }

  // Rows from `row` on, and columns from j + column on: `column` counts from where the panels
  // begin.
  ProductTask<T> task_at(int64_t row, int64_t j, int64_t column, int64_t block, Sizes sizes) const {
    ProductTask<T> task;
    task.left = view<T>(left_, row, block * depth_);
    task.rows = sizes.rows;
    task.depth = sizes.depth;
    task.first_column = column;
    task.columns = sizes.columns;
    task.out = data<T>(out_) + row * out_.stride(0) + j + column;
    task.out_row = out_.stride(0);
    if (block == 0 && base_.defined()) {
      task.base = const_data<T>(base_) + row * base_.stride(0) + j + column;
      task.base_row = base_.stride(0);
      task.factor = factor_;
    }
    keep_sums(task, row, column, block);
    return task;
  }
  // Between depths: an fp32 result holds its sums itself.
  void keep_sums(ProductTask<T>& task, int64_t row, int64_t column, int64_t block) const {
    const bool is_first = block == 0, is_last = block + 1 == blocks_;
    if constexpr (sizeof(T) == sizeof(float)) {
      if (is_first) return;
      task.before = task.out;
      task.before_row = task.out_row;
    } else {
      if (!sums_.defined()) return;
      float* const sums = data<float>(sums_) + row * sums_.stride(0) + column;
      if (!is_first) task.before = sums;
      if (!is_last) task.after = sums;
      task.before_row = task.after_row = sums_.stride(0);
    }
  }

  const ProductKernels<T>& kernels_;
  const Tensor &out_, &left_, &right_, &base_;
  float factor_;
  int64_t M_, K_, N_, depth_;
  int64_t blocks_ = 0, panels_stride_ = 0;
  Tensor panels_, sums_;
};

}  // namespace

bool takes_product(const Tensor& left, const Tensor& right) {
  const auto dtype = left.scalar_type();
  return left.device().is_cpu() && right.device().is_cpu() && right.scalar_type() == dtype &&
         (dtype == torch::kFloat32 || dtype == torch::kBFloat16);
}

void multiply(const Tensor& out, const Tensor& left, const Tensor& right, const Tensor& base,
              float factor) {
  multiply(best_variant(), out, left, right, base, factor);
}

void multiply(Variant variant, const Tensor& out, const Tensor& left, const Tensor& right,
              const Tensor& base, float factor) {
  if (out.numel() == 0) return;
  if (out.stride(1) != 1) {
    const Tensor rows = torch::empty(out.sizes(), out.options());
    multiply(variant, rows, left, right, base, factor);
    out.copy_(rows);
    return;
  }
  const Tensor left_rows = readable(left), right_rows = readable(right);
  const Tensor base_rows = base.defined() && base.stride(1) != 1 ? base.contiguous() : base;
  RECORD_USER_SCOPE("crnet::product");
  with_element_type(out, [&](auto element) {
    Product<decltype(element)>(variant, out, left_rows, right_rows, base_rows, factor).run();
  });
}

}  // namespace crnet::cpu
