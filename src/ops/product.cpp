#include "ops/product.h"

#include <algorithm>
#include <sstream>

#include "crnet/core/error.h"
#include "ops/cpu_product.h"

namespace crnet {
namespace {

using torch::Tensor;

bool is_x86() {
#if defined(__x86_64__)
  return true;
#else
  return false;
#endif
}

bool has_avx512() {
  return cpu::supports(cpu::Variant::kAvx512);
}

// Whether crnet's own kernels were found to be faster than LibTorch (docs/performance.md). Not by
// measuring now: a run must go on with the bits that it began with.
bool own_kernels_are_faster(torch::ScalarType dtype) {
  if (!is_x86()) return false;
  if (!has_avx512()) return true;
  return cpu::is_amd() && (dtype == torch::kFloat32 || cpu::supports(cpu::Variant::kAvx512Bf16));
}

// LibTorch is faster where the left factor has so few rows that packing the right one costs more
// than multiplying.
bool own_is_faster(torch::ScalarType dtype, int64_t rows) {
  static const bool fp32 = own_kernels_are_faster(torch::kFloat32);
  static const bool bf16 = own_kernels_are_faster(torch::kBFloat16);
  constexpr int64_t kFewRows = 64;
  return (dtype == torch::kBFloat16 ? bf16 : fp32) &&
         (rows >= kFewRows || is_slow_in_libtorch(torch::kCPU, dtype));
}

bool is_own(const Tensor& left, const Tensor& right, const Tensor& out) {
  const auto dtype = out.scalar_type();
  return cpu::takes_product(left, right) && own_is_faster(left.scalar_type(), left.size(0)) &&
         (dtype == left.scalar_type() || dtype == torch::kFloat32);
}

bool is_rounded(const Tensor& left, const Tensor& right) {
  return left.scalar_type() == torch::kBFloat16 && right.scalar_type() == torch::kFloat32;
}

// The right factor for LibTorch, which takes two of one dtype.
Tensor rounded_like(const Tensor& left, const Tensor& right) {
  return is_rounded(left, right) ? right.to(left.scalar_type()) : right;
}

void check(const Tensor& left, const Tensor& right, const Tensor& out) {
  const bool fits = left.dim() == 2 && right.dim() == 2 && out.dim() == 2 &&
                    left.size(1) == right.size(0) && left.size(0) == out.size(0) &&
                    right.size(1) == out.size(1) &&
                    (right.scalar_type() == left.scalar_type() || is_rounded(left, right));
  if (fits) return;
  std::ostringstream text;
  text << "[product] expected [M, K] times [K, N] of its dtype (or fp32 for bf16) with [M, N], got "
       << left.sizes() << " " << left.scalar_type() << ", " << right.sizes() << " "
       << right.scalar_type() << " and " << out.sizes();
  throw Error(text.str());
}

// cuBLAS writes the fp32 sums of bf16 factors as they are.
bool is_widened(const Tensor& out, const Tensor& left) {
  return left.is_cuda() && left.scalar_type() == torch::kBFloat16 &&
         out.scalar_type() == torch::kFloat32;
}

// total += part, of a narrower dtype. LibTorch first makes a copy of `part` in the wider one: a few
// rows at a time, it is small (at V = 32,000 and C = 768 it was 94 MiB of a step's peak).
void add_by_rows(Tensor& total, const Tensor& part) {
  constexpr int64_t kRows = 2048;
  for (int64_t begin = 0; begin < total.size(0); begin += kRows) {
    const int64_t n = std::min(kRows, total.size(0) - begin);
    total.narrow(0, begin, n).add_(part.narrow(0, begin, n));
  }
}

}  // namespace

bool is_slow_in_libtorch(torch::Device device, torch::ScalarType dtype) {
  return device.is_cpu() && dtype == torch::kBFloat16 && is_x86() && !has_avx512();
}

Tensor as_matrix(const Tensor& t) {
  return t.reshape({-1, t.size(-1)});
}

bool rounds_weights_as_packed(torch::ScalarType dtype, int64_t rows) {
  return dtype == torch::kBFloat16 && own_is_faster(dtype, rows);
}

Tensor as_factor(const Tensor& weight, const Tensor& x) {
  const auto dtype = x.scalar_type();
  const bool stays = x.is_cpu() && weight.scalar_type() == torch::kFloat32 && x.numel() > 0 &&
                     rounds_weights_as_packed(dtype, x.numel() / x.size(-1));
  return stays ? weight : weight.to(dtype);
}

Tensor as_factor(const Tensor& weight, const Tensor& x, at::IntArrayRef sizes) {
  if (weight.sizes() == sizes) return as_factor(weight, x);
  const int64_t rows = weight.size(0), columns = weight.size(1);
  Tensor factor = torch::empty(sizes, weight.options().dtype(x.scalar_type()));
  factor.narrow(0, rows, sizes[0] - rows).zero_();
  const Tensor above = factor.narrow(0, 0, rows);
  above.narrow(1, columns, sizes[1] - columns).zero_();
  above.narrow(1, 0, columns).copy_(weight);
  return factor;
}

Tensor without_padding(const Tensor& gradient, at::IntArrayRef sizes) {
  if (gradient.sizes() == sizes) return gradient.contiguous();
  return gradient.narrow(0, 0, sizes[0]).narrow(1, 0, sizes[1]).contiguous();
}

Tensor product_of(const Tensor& left, const Tensor& right) {
  return product_as(left.scalar_type(), left, right);
}

Tensor product_as(torch::ScalarType dtype, const Tensor& left, const Tensor& right) {
  Tensor out = torch::empty({left.size(0), right.size(1)}, left.options().dtype(dtype));
  store_product(out, left, right);
  return out;
}

void store_product(Tensor& out, const Tensor& left, const Tensor& right) {
  check(left, right, out);
  if (is_own(left, right, out)) {
    cpu::multiply(out, left, right, {}, 0);
  } else if (is_widened(out, left)) {
    at::mm_out(out, left, rounded_like(left, right), out.scalar_type());
  } else if (out.scalar_type() == left.scalar_type()) {
    at::mm_out(out, left, rounded_like(left, right));
  } else {
    out.copy_(product_of(left, right));
  }
}

void add_product(Tensor& sum, const Tensor& left, const Tensor& right) {
  check(left, right, sum);
  if (is_own(left, right, sum)) {
    cpu::multiply(sum, left, right, sum, 1);
  } else if (is_widened(sum, left)) {
    at::addmm_out(sum, sum, left, rounded_like(left, right), sum.scalar_type());
  } else if (sum.scalar_type() == left.scalar_type()) {
    sum.addmm_(left, rounded_like(left, right));
  } else {
    add_by_rows(sum, product_of(left, right));
  }
}

// CUDA's product with a scalar tensor would round c to t's dtype first, and in bf16 a β near 1
// could not move by less than 0.8 %.
Tensor scaled(const Tensor& t, const Tensor& c) {
  if (t.device().is_cpu() || t.scalar_type() == c.scalar_type()) return at::mul(t, c);
  return (t.to(c.scalar_type()) * c).to(t.scalar_type());
}

Tensor scaled_plus_product(const Tensor& c, const Tensor& base, const Tensor& left,
                           const Tensor& right) {
  if (!is_own(left, right, base) || !c.device().is_cpu()) {
    return scaled(base, c).addmm_(left, rounded_like(left, right));
  }
  check(left, right, base);
  const Tensor out = torch::empty(base.sizes(), base.options());
  cpu::multiply(out, left, right, base, c.item<float>());
  return out;
}

Tensor as_gradient_of(const Tensor& x, const Tensor& matrix) {
  return at::_unsafe_view(matrix, x.sizes());
}

}  // namespace crnet
