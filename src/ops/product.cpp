#include "ops/product.h"

#include <algorithm>
#include <sstream>

#include "crnet/core/error.h"
#include "ops/cpu/kernels.h"

namespace crnet {
namespace {

using torch::Tensor;

// A tile of the sum and those of its factors, in fp32: 8, 2 and 4 MiB.
constexpr int64_t kTileRows = 1024, kTileColumns = 2048, kTileDepth = 512;

// LibTorch gives bf16 products to oneDNN where that has kernels for them, which on x86 means these
// parts of AVX-512, with bf16 instructions or without.
bool processor_multiplies_bf16() {
#if defined(__x86_64__)
  static const bool does = cpu::supports(cpu::Variant::kAvx512);
  return does;
#else
  return true;
#endif
}

bool is_widened(const Tensor& left) {
  return left.device().is_cpu() && left.scalar_type() == torch::kBFloat16 &&
         !processor_multiplies_bf16();
}

void check(const Tensor& out, const Tensor& left, const Tensor& right) {
  const bool fits = out.dim() == 2 && left.dim() == 2 && right.dim() == 2 &&
                    left.size(0) == out.size(0) && left.size(1) == right.size(0) &&
                    right.size(1) == out.size(1) && left.scalar_type() == right.scalar_type();
  if (fits) return;
  std::ostringstream text;
  text << "[product] expected [M, K] times [K, N] of one dtype into [M, N], got " << left.sizes()
       << " " << left.scalar_type() << ", " << right.sizes() << " " << right.scalar_type()
       << " and " << out.sizes();
  throw Error(text.str());
}

}  // namespace

namespace detail {

void multiply_widened(Tensor& out, const Tensor& left, const Tensor& right, Into into) {
  check(out, left, right);
  const int64_t M = left.size(0), K = left.size(1), N = right.size(1);
  for (int64_t i = 0; i < M; i += kTileRows) {
    const Tensor rows = left.narrow(0, i, std::min(kTileRows, M - i));
    for (int64_t j = 0; j < N; j += kTileColumns) {
      const Tensor columns = right.narrow(1, j, std::min(kTileColumns, N - j));
      Tensor tile = out.narrow(0, i, rows.size(0)).narrow(1, j, columns.size(1));
      Tensor sum = into == Into::kAdd
                       ? tile.to(torch::kFloat32)
                       : torch::zeros(tile.sizes(), tile.options().dtype(torch::kFloat32));
      for (int64_t k = 0; k < K; k += kTileDepth) {
        const int64_t depth = std::min(kTileDepth, K - k);
        sum.addmm_(rows.narrow(1, k, depth).to(torch::kFloat32),
                   columns.narrow(0, k, depth).to(torch::kFloat32));
      }
      tile.copy_(sum);
    }
  }
}

}  // namespace detail

using detail::Into;

Tensor product_of(const Tensor& left, const Tensor& right) {
  if (!is_widened(left)) return at::mm(left, right);
  Tensor out = torch::empty({left.size(0), right.size(1)}, left.options());
  detail::multiply_widened(out, left, right, Into::kOverwrite);
  return out;
}

void store_product(Tensor& out, const Tensor& left, const Tensor& right) {
  if (!is_widened(left)) {
    at::mm_out(out, left, right);
  } else {
    detail::multiply_widened(out, left, right, Into::kOverwrite);
  }
}

void add_product(Tensor& sum, const Tensor& left, const Tensor& right) {
  if (!is_widened(left)) {
    sum.addmm_(left, right);
  } else {
    detail::multiply_widened(sum, left, right, Into::kAdd);
  }
}

}  // namespace crnet
