#include "ops/cpu_product.h"

#include <ATen/Parallel.h>
#include <ATen/record_function.h>

#include <algorithm>
#include <atomic>
#include <sstream>
#include <vector>

#include "crnet/core/error.h"
#include "ops/cpu/dispatch.h"
#include "ops/cpu/product_kernels.h"
#include "ops/parallel.h"

namespace crnet::cpu {
namespace {

using torch::Tensor;

// Panels of one round, 4 MiB.
constexpr int64_t kPanelNumbers = 1 << 20;
// Columns whose panels, and a group of rows beside them, stay in a core's own cache; and the most
// that one thread packs for itself.
constexpr int64_t kSlabColumns = 3 * kProductColumnUnit, kWidestSlab = 8 * kProductColumnUnit;

// Rows or columns lie one after another.
Tensor readable(const Tensor& t) {
  return t.stride(0) == 1 || t.stride(1) == 1 ? t : t.contiguous();
}
// Where columns do, they are whole units of the depth. (Of a single column contiguous() takes any
// stride for one.)
Tensor readable_right(const Tensor& t, int64_t unit) {
  const bool is_whole = t.size(0) % unit == 0 && t.stride(1) % unit == 0;
  return t.stride(1) == 1 || is_whole ? readable(t) : t.clone(at::MemoryFormat::Contiguous);
}

// From element (row, column) on. Of a single row or column the other stride is not read.
template <class T>
MatrixView<T> view(const Tensor& t, int64_t row, int64_t column) {
  return {const_data<T>(t) + row * t.stride(0) + column * t.stride(1), t.stride(0), t.stride(1)};
}

// Blocks of the depth of about one size, of whole units.
int64_t depth_step(int64_t K, int64_t unit) {
  const int64_t units = at::divup(K, unit);
  const int64_t blocks = std::max<int64_t>(1, at::divup(units, kProductDepth));
  return std::max<int64_t>(1, at::divup(units, blocks)) * unit;
}

struct Range {
  int64_t begin, end;
};

// Piece `piece` of `pieces` of [0, total), in whole units.
Range piece_of(int64_t piece, int64_t pieces, int64_t total, int64_t unit) {
  const int64_t units = at::divup(total, unit);
  return {std::min(units * piece / pieces * unit, total),
          std::min(units * (piece + 1) / pieces * unit, total)};
}

// Where pieces of the rows begin, and M: as many rows as a kernel takes, and fewer towards the end,
// so that the threads end together; but not so few that reading the panels takes longer than
// multiplying.
std::vector<int64_t> row_bounds(int64_t M, int64_t threads) {
  constexpr int64_t kFewest = 2 * kProductRowUnit;
  std::vector<int64_t> bounds = {0};
  while (bounds.back() < M) {
    const int64_t share = (M - bounds.back()) / (2 * threads);
    const int64_t rows = std::clamp(share, kFewest, kProductRows) / kProductRowUnit;
    bounds.push_back(std::min(bounds.back() + rows * kProductRowUnit, M));
  }
  return bounds;
}

// As wide as the panels that a thread packs for itself, where that pays: with columns enough for
// every thread to take several slabs, and a left factor that need not be packed for each; or with
// rows so few that panels that others read too come late from the outer cache (256 rows, 2736
// columns: 1.04 to 1.4 of the speed). Else 0.
int64_t slab_columns(int64_t M, int64_t N, int64_t threads, bool suits_slabs) {
  if (suits_slabs && N >= 8 * threads * kSlabColumns) return kSlabColumns;
  if (M > 2 * kProductRows || at::divup(N, kProductColumnUnit) < threads) return 0;
  const int64_t slabs = at::divup(N, kWidestSlab * threads) * threads;
  return at::divup(at::divup(N, slabs), kProductLanes) * kProductLanes;
}

// Counts up, and lets threads wait for a count.
class Counter {
 public:
  // `last` is what others wait for.
  void add(int64_t last) {
    if (count_.fetch_add(1, std::memory_order_release) + 1 == last) count_.notify_all();
  }
  void wait_for(int64_t count) const {
    for (int now = load(); now < count; now = load()) count_.wait(now, std::memory_order_acquire);
  }

 private:
  [[nodiscard]] int load() const { return count_.load(std::memory_order_acquire); }

  std::atomic<int> count_{0};
};

template <class T>
class Product {
 public:
  Product(const ProductKernels<T>& kernels, const Tensor& out, const Tensor& left,
          const Tensor& right, const Tensor& base, float factor)
      : kernels_(kernels),
        out_(out),
        left_(left),
        right_(right),
        base_(base),
        factor_(factor),
        M_(left.size(0)),
        K_(left.size(1)),
        N_(right.size(1)),
        depth_(depth_step(K_, kernels.depth_unit)),
        blocks_(std::max<int64_t>(1, at::divup(K_, depth_))) {}  // one where K is 0

  void run() {
    const int64_t threads = at::get_num_threads();
    // Each slab has sums of its own, and may not have many.
    const bool suits_slabs = kernels_.reads_in_place(view<T>(left_, 0, 0), depth_) &&
                             (!needs_sums() || M_ * kSlabColumns <= kPanelNumbers);
    const int64_t width = slab_columns(M_, N_, threads, suits_slabs);
    if (width > 0) {
      multiply_slabs(width);
    } else {
      multiply_rounds(threads);
    }
  }

 private:
  // Columns [first, first + count), whose panels begin with the first.
  struct Slab {
    int64_t first, count;
  };
  // Rows, and columns of a slab.
  struct Part {
    Range rows, columns;
  };
  struct Share {
    int64_t piece, pieces;
  };
  // fp32 sums [M, slab] between blocks of the depth, where the result cannot hold them.
  struct Sums {
    float* data;
    int64_t row;
  };

  // Each thread packs a slab of columns and multiplies all rows with it.
  void multiply_slabs(int64_t width) const {
    const int64_t panels_size = kernels_.panels_size(depth_, width);
    const int64_t sums_size = needs_sums() ? M_ * width : 0;
    const auto run_slab = [&](int64_t index, float* scratch) {
      const Slab slab{index * width, std::min(width, N_ - index * width)};
      float* const panels = scratch + kProductScratch;
      const Sums sums{panels + panels_size, width};
      for (int64_t block = 0; block < blocks_; ++block) {
        pack(block, slab, panels, {0, 1});
        for (int64_t row = 0; row < M_; row += kProductRows) {
          const Range rows{row, std::min(row + kProductRows, M_)};
          multiply_piece(block, slab, panels, {rows, {0, slab.count}}, sums, scratch);
        }
      }
    };
    for_each_task(at::divup(N_, width), kProductScratch + panels_size + sums_size, run_slab);
  }

  // A round is a slab of columns over some blocks of the depth. The threads share the packing of
  // its panels, and then the rows; where these are few, the columns as well, since panels are read
  // for every piece of rows. A thread that finds nothing left goes on with the next round, whose
  // panels are others. Tasks are taken in their order: what one waits for is under way or done.
  void multiply_rounds(int64_t threads) const {
    const int64_t width = std::min(N_, kProductColumns);
    const int64_t panels_size = kernels_.panels_size(depth_, width);
    const int64_t together = std::clamp<int64_t>(kPanelNumbers / panels_size, 1, blocks_);
    const int64_t rounds_of_slab = at::divup(blocks_, together);
    const int64_t num_rounds = at::divup(N_, width) * rounds_of_slab;
    const std::vector<int64_t> bounds = row_bounds(M_, threads);
    const auto row_pieces = static_cast<int64_t>(bounds.size()) - 1;
    const int64_t column_pieces = at::divup(threads, row_pieces);
    const int64_t num_packs = together * threads, num_pieces = row_pieces * column_pieces;

    const auto fp32 = out_.options().dtype(torch::kFloat32);
    const int64_t panels_of_round = together * panels_size;
    const Tensor panels = torch::empty({std::min<int64_t>(num_rounds, 2), panels_of_round}, fp32);
    const Tensor sums = torch::empty({needs_sums() ? M_ : 0, width}, fp32);
    std::vector<Counter> packed(num_rounds), multiplied(num_rounds), rounds_of_piece(num_pieces);

    const auto run_task = [&](int64_t index, float* scratch) noexcept {
      const int64_t round = index / (num_packs + num_pieces);
      const int64_t task = index % (num_packs + num_pieces);
      const int64_t column = round / rounds_of_slab * width;
      const Slab slab{column, std::min(width, N_ - column)};
      const int64_t first = round % rounds_of_slab * together;
      const int64_t last = std::min(first + together, blocks_);
      float* const to = data<float>(panels) + round % 2 * panels_of_round;
      const auto panels_of = [&](int64_t block) { return to + (block - first) * panels_size; };
      if (task < num_packs) {
        if (round >= 2) multiplied[round - 2].wait_for(num_pieces);
        const int64_t block = first + task / threads;
        if (block < last) pack(block, slab, panels_of(block), {task % threads, threads});
        packed[round].add(num_packs);
        return;
      }
      const int64_t piece = task - num_packs;
      const Part part{
          {bounds[piece / column_pieces], bounds[piece / column_pieces + 1]},
          piece_of(piece % column_pieces, column_pieces, slab.count, kProductColumnUnit)};
      packed[round].wait_for(num_packs);
      rounds_of_piece[piece].wait_for(round);
      // The sums of the slab before lay in the same place, those of other pieces in this piece's.
      if (needs_sums() && first == 0 && round > 0) multiplied[round - 1].wait_for(num_pieces);
      for (int64_t block = first; block < last; ++block) {
        multiply_piece(block, slab, panels_of(block), part, {data<float>(sums), width}, scratch);
      }
      rounds_of_piece[piece].add(round + 1);
      multiplied[round].add(num_pieces);
    };
    for_each_task(num_rounds * (num_packs + num_pieces), kProductScratch, run_task);
  }

  [[nodiscard]] bool is_wide() const { return out_.scalar_type() == torch::kFloat32; }
  [[nodiscard]] bool needs_sums() const { return !is_wide() && blocks_ > 1; }
  [[nodiscard]] int64_t depth_of(int64_t block) const {
    return std::min(depth_, K_ - block * depth_);
  }

  void pack(int64_t block, Slab slab, float* panels, Share share) const {
    const int64_t row = block * depth_, column = slab.first;
    if (right_.scalar_type() == torch::kFloat32) {
      kernels_.pack_fp32({view<float>(right_, row, column), depth_of(block), slab.count, panels},
                         share.piece, share.pieces);
    } else {
      kernels_.pack({view<T>(right_, row, column), depth_of(block), slab.count, panels},
                    share.piece, share.pieces);
    }
  }

  void multiply_piece(int64_t block, Slab slab, const float* panels, const Part& part, Sums sums,
                      float* scratch) const {
    if (part.columns.begin == part.columns.end) return;
    const int64_t row = part.rows.begin, column = slab.first + part.columns.begin;
    ProductTask<T> task;
    task.left = view<T>(left_, row, block * depth_);
    task.rows = part.rows.end - row;
    task.depth = depth_of(block);
    task.first_column = part.columns.begin;
    task.columns = part.columns.end - part.columns.begin;
    task.panels = panels;
    place(task, block, row, column, {sums.data + row * sums.row + part.columns.begin, sums.row});
    kernels_.multiply(task, scratch);
  }

  // What is added to the piece that begins at (row, column), and where it goes. An fp32 result
  // holds the sums between blocks itself.
  void place(ProductTask<T>& task, int64_t block, int64_t row, int64_t column, Sums sums) const {
    const bool is_first = block == 0, is_last = block + 1 == blocks_;
    if (is_wide()) sums = {data<float>(out_) + offset(out_, row, column), out_.stride(0)};
    if (!is_first) {
      task.before = sums.data;
      task.before_row = sums.row;
    } else if (base_.defined() && base_.scalar_type() == torch::kFloat32 && factor_ == 1) {
      task.before = const_data<float>(base_) + offset(base_, row, column);
      task.before_row = base_.stride(0);
    } else if (base_.defined()) {
      task.base = const_data<T>(base_) + offset(base_, row, column);
      task.base_row = base_.stride(0);
      task.factor = factor_;
    }
    if (is_wide() || !is_last) {
      task.after = sums.data;
      task.after_row = sums.row;
    } else {
      task.out = data<T>(out_) + offset(out_, row, column);
      task.out_row = out_.stride(0);
    }
  }
  static int64_t offset(const Tensor& t, int64_t row, int64_t column) {
    return row * t.stride(0) + column;
  }

  const ProductKernels<T>& kernels_;
  const Tensor &out_, &left_, &right_, &base_;
  float factor_;
  int64_t M_, K_, N_, depth_, blocks_;
};

}  // namespace

bool takes_product(const Tensor& left, const Tensor& right) {
  const auto dtype = left.scalar_type(), other = right.scalar_type();
  return left.device().is_cpu() && right.device().is_cpu() &&
         (dtype == torch::kFloat32 || dtype == torch::kBFloat16) &&
         (other == dtype || other == torch::kFloat32);
}

void multiply(const Tensor& out, const Tensor& left, const Tensor& right, const Tensor& base,
              float factor) {
  multiply(best_variant(), out, left, right, base, factor);
}

void multiply(Variant variant, const Tensor& out, const Tensor& left, const Tensor& right,
              const Tensor& base, float factor) {
  if (base.defined() && base.scalar_type() != left.scalar_type() &&
      (factor != 1 || base.scalar_type() != out.scalar_type())) {
    std::ostringstream text;
    text << "[product] expected something to add of the factors' dtype, " << left.scalar_type()
         << ", or once of fp32 for a result of fp32, got " << factor << " times "
         << base.scalar_type() << " for " << out.scalar_type();
    throw Error(text.str());
  }
  if (out.numel() == 0) return;
  if (out.stride(1) != 1) {
    const Tensor rows = torch::empty(out.sizes(), out.options());
    multiply(variant, rows, left, right, base, factor);
    out.copy_(rows);
    return;
  }
  const Tensor base_rows = base.defined() && base.stride(1) != 1 ? base.contiguous() : base;
  RECORD_USER_SCOPE("crnet::product");
  with_element_type(left, [&](auto element) {
    using T = decltype(element);
    const ProductKernels<T>& kernels = product_kernels<T>(variant);
    const Tensor left_rows = readable(left);
    const Tensor right_rows = readable_right(right, kernels.depth_unit);
    Product<T>(kernels, out, left_rows, right_rows, base_rows, factor).run();
  });
}

}  // namespace crnet::cpu
