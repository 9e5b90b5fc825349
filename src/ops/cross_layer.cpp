#include "ops/cross_layer.h"

#include <ATen/record_function.h>

#include <algorithm>
#include <vector>

#include "ops/cpu/dispatch.h"
#include "ops/cuda/dispatch.h"
#include "ops/parallel.h"
#include "ops/product.h"

namespace crnet {
namespace {

using torch::Tensor;

// Partial sums per piece, added up in order.
Tensor cross_layer_cpu(CrossLayerPass pass, const Tensor& dy, const Tensor& y_prev, const Tensor& c,
                       const Tensor& out) {
  const int64_t count = dy.numel();
  const int64_t pieces = cpu::num_partial_sums(count / 4096 + 1);
  const int64_t piece = at::divup(count, pieces);
  const float scale = c.item<float>();
  std::vector<double> sums(static_cast<size_t>(pieces));
  cpu::with_element_type(dy, [&](auto element) {
    using T = decltype(element);
    const T* const gradient = cpu::const_data<T>(dy);
    const T* const below = cpu::const_data_or_null<T>(y_prev);
    T* const to = cpu::data_or_null<T>(out);
    parallel_for(0, pieces, 1, [&](int64_t first, int64_t last) {
      for (int64_t p = first; p < last; ++p) {
        const int64_t begin = std::min(p * piece, count), end = std::min(begin + piece, count);
        sums[static_cast<size_t>(p)] = cpu::kernels<T>().cross_layer(
            pass, gradient + begin, below == nullptr ? nullptr : below + begin,
            to == nullptr ? nullptr : to + begin, scale, end - begin);
      }
    });
  });
  if (!y_prev.defined()) return {};
  double sum = 0;
  for (const double s : sums) sum += s;
  return torch::full({}, sum, c.options());
}

// The same on a GPU, where c and the sum stay.
Tensor cross_layer_cuda(CrossLayerPass pass, const Tensor& dy, const Tensor& y_prev,
                        const Tensor& c, const Tensor& out) {
  const Tensor sum = torch::empty({}, c.options());
  const Tensor partial = torch::empty({cuda::kDotPartials}, c.options());
  cuda::with_stream(dy, [&](auto element, cuda::Stream stream) {
    using T = decltype(element);
    cuda::cross_layer(pass, cuda::const_data<T>(dy), cuda::const_data_or_null<T>(y_prev),
                      cuda::const_data<float>(c), cuda::data_or_null<T>(out),
                      cuda::data<float>(partial), cuda::data<float>(sum), dy.numel(), stream);
  });
  return y_prev.defined() ? sum : Tensor();
}

Tensor cross_layer_plain(CrossLayerPass pass, const Tensor& dy, const Tensor& y_prev,
                         const Tensor& c, const Tensor& out) {
  const auto dtype = torch::promote_types(dy.scalar_type(), c.scalar_type());
  Tensor wide = dy.to(dtype);
  if (pass == CrossLayerPass::kAdd) {
    wide = wide + c * out.to(dtype);
    out.copy_(wide);
  }
  if (pass == CrossLayerPass::kScale) out.copy_(wide * c);
  return y_prev.defined() ? (wide * y_prev).sum().to(c.scalar_type()) : Tensor();
}

// Nothing is asked of an undefined tensor.
const Tensor& or_else(const Tensor& t, const Tensor& other) {
  return t.defined() ? t : other;
}

}  // namespace

Tensor pass_over_gradient(CrossLayerPass pass, const Tensor& dy, const Tensor& y_prev,
                          const Tensor& c, const Tensor& out) {
  RECORD_USER_SCOPE("crnet::pass_over_gradient");
  if (dy.numel() == 0) return y_prev.defined() ? torch::zeros({}, c.options()) : Tensor();
  const Tensor &below = or_else(y_prev, dy), &to = or_else(out, dy);
  if (cpu::takes(dy, below, to) && c.device().is_cpu()) {
    return cross_layer_cpu(pass, dy, y_prev, c, out);
  }
  if (cuda::takes(dy, below, to) && cuda::takes_with_fp32(dy, c)) {
    return cross_layer_cuda(pass, dy, y_prev, c, out);
  }
  return cross_layer_plain(pass, dy, y_prev, c, out);
}

SummedGradient add_carried(const Tensor& own, const Carried& carried, const Tensor& y_prev) {
  const Tensor matrix = as_matrix(carried.gradient);
  const Tensor dy = carried.is_owned ? matrix : matrix.clone();
  return {dy, pass_over_gradient(CrossLayerPass::kAdd, own, y_prev, carried.scale, dy)};
}

}  // namespace crnet
