// How row-major matrices look to cuBLAS, which is column-major.
#pragma once

#include <cstdint>

namespace crnet::cuda {

/// A column-major matrix: element (i, j) lies at i + j · leading.
struct ColumnMajor {
  int64_t rows, columns, leading;
};

/// A row-major [rows, columns] matrix read column by column is its transpose. Rows lie `row`
/// numbers apart.
constexpr ColumnMajor transpose_of(int64_t rows, int64_t columns, int64_t row) {
  return {columns, rows, row};
}

/// Y = c Y_prev + low · B, row-major, as Yᵀ = c Y_prevᵀ + Bᵀ · lowᵀ, column-major and with nothing
/// transposed: B is the left factor.
struct ResidualLayout {
  ColumnMajor left;    ///< Bᵀ [out, R]
  ColumnMajor right;   ///< lowᵀ [R, N]
  ColumnMajor result;  ///< Yᵀ and Y_prevᵀ [out, N]
};
constexpr ResidualLayout residual_layout(int64_t tokens, int64_t rank, int64_t out,
                                         int64_t low_row) {
  return {transpose_of(rank, out, out), transpose_of(tokens, rank, low_row),
          transpose_of(tokens, out, out)};
}

}  // namespace crnet::cuda
