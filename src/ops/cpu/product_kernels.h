// Matrix products over plain memory, compiled once per instruction set; see kernels.h.
// M rows, K depth, N columns.
#pragma once

#include "ops/cpu/kernels.h"

namespace crnet::cpu {

/// Element (i, j) is data[i · row + j · column]; one of the two strides is 1.
template <class T>
struct MatrixView {
  const T* data = nullptr;
  int64_t row = 0, column = 0;
};

/// The most rows, depth (in ProductKernels::depth_unit) and columns that one call takes.
constexpr int64_t kProductRows = 144, kProductDepth = 512, kProductColumns = 576;
/// Where pieces of the rows, and of columns that share panels, may begin: at multiples of these.
constexpr int64_t kProductRowUnit = 24, kProductColumnUnit = 48;
/// The vectors of columns are of 16 numbers at most.
constexpr int64_t kProductLanes = 16;
/// Numbers that one call works with.
constexpr int64_t kProductScratch = kProductRows * (kProductDepth + 2);

/// The right factor [depth, columns], laid out as panels of columns: widened, or as pairs.
template <class Right>
struct PackTask {
  MatrixView<Right> right;
  int64_t depth = 0, columns = 0;
  float* panels = nullptr;  // panels_size(depth, columns)
};

/// Some rows, and from `first_column` on some columns, of the product of a left factor
/// [rows, depth] with panels.
template <class T>
struct ProductTask {
  MatrixView<T> left;
  int64_t rows = 0, depth = 0, first_column = 0, columns = 0;
  const float* panels = nullptr;
  /// What the product is added to: sums of an earlier depth, or an fp32 matrix; or factor · base;
  /// or nothing.
  const float* before = nullptr;
  int64_t before_row = 0;
  const T* base = nullptr;
  int64_t base_row = 0;
  float factor = 1;
  /// Where the sum goes: in fp32, or rounded into the result.
  float* after = nullptr;
  int64_t after_row = 0;
  T* out = nullptr;
  int64_t out_row = 0;
};

/// The order of every sum depends on nothing but the depth.
template <class T>
struct ProductKernels {
  /// How many numbers of the depth are multiplied as one: bf16 numbers in pairs where there are
  /// instructions for it. A depth that is cut is cut at multiples. Of a right factor that lies
  /// column by column depth and stride have to be multiples.
  int64_t depth_unit;
  /// Whether the rows of a left factor are read where they are, and not copied for every call.
  bool (*reads_in_place)(const MatrixView<T>& left, int64_t depth);
  /// How many numbers the panels take.
  int64_t (*panels_size)(int64_t depth, int64_t columns);
  /// Piece `piece` of `pieces` of the packing.
  void (*pack)(const PackTask<T>& task, int64_t piece, int64_t pieces);
  /// The same of an fp32 right factor, rounded to T (of fp32 the same function).
  void (*pack_fp32)(const PackTask<float>& task, int64_t piece, int64_t pieces);
  /// `scratch` holds kProductScratch numbers.
  void (*multiply)(const ProductTask<T>& task, float* scratch);
};

/// The kernels of a variant that is supported.
template <class T>
const ProductKernels<T>& product_kernels(Variant variant);

}  // namespace crnet::cpu
