#include "crnet/ops/matrix_product.h"

#include <sstream>

#include "crnet/core/error.h"
#include "ops/carried_gradient.h"
#include "ops/cross_layer.h"
#include "ops/product.h"
#include "ops/remade.h"

namespace crnet {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;

Tensor as_matrix(const Tensor& t) {
  return t.reshape({-1, t.size(-1)});
}

// Both layouts as [in, out].
Tensor in_out(const Tensor& weight, bool out_in) {
  return out_in ? weight.t() : weight;
}

class MatrixProduct : public torch::autograd::Function<MatrixProduct> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& weight, bool out_in,
                        Tensor* product) {
    RECORD_USER_SCOPE("crnet::matrix_product");
    const Tensor w = weight.to(x.scalar_type());
    ctx->save_for_backward({to_save(ctx, "x", x), w});
    ctx->saved_data["out_in"] = out_in;
    ctx->saved_data["master"] = static_cast<int64_t>(weight.scalar_type());
    accept_carried<MatrixProduct>(ctx);
    if (product != nullptr && product->defined()) return product->variable_data();
    auto sizes = x.sizes().vec();
    sizes.back() = weight.size(out_in ? 0 : 1);
    const Tensor y = product_of(as_matrix(x), in_out(w, out_in)).view(sizes);  // [..., out]
    if (product != nullptr) *product = y;
    return y.variable_data();
  }

  static tensor_list backward(AutogradContext* ctx, tensor_list grad_outputs) {
    RECORD_USER_SCOPE("crnet::matrix_product_backward");
    const auto saved = ctx->get_saved_variables();
    const Tensor x = from_saved(ctx, "x", saved[0]);
    const Tensor& w = saved[1];
    const bool out_in = ctx->saved_data["out_in"].toBool();
    const auto master = static_cast<torch::ScalarType>(ctx->saved_data["master"].toInt());
    Tensor dy = as_matrix(grad_outputs[0]).contiguous();  // [N, out]
    if (const auto carried = take_carried(ctx)) {
      const Tensor sum = to_add_to(*carried);
      cross_layer(CrossLayerPass::kAdd, dy, {}, carried->scale, sum);
      dy = sum;
    }
    const Tensor dx = as_gradient_of(x, product_of(dy, in_out(w, out_in).t()));  // [..., in]
    const Tensor rows = as_matrix(x);                                            // [N, in]
    const Tensor dw = out_in ? product_of(dy.t(), rows) : product_of(rows.t(), dy);
    return {dx, dw.to(master), Tensor(), Tensor()};
  }
};

}  // namespace

Tensor matrix_product(const Tensor& x, const Tensor& weight, WeightLayout layout, Tensor* product) {
  const bool out_in = layout == WeightLayout::kOutIn;
  if (x.dim() < 1 || weight.dim() != 2 || x.size(-1) != weight.size(out_in ? 1 : 0)) {
    std::ostringstream text;
    text << "[matrix_product] expected x [..., in] and weight "
         << (out_in ? "[out, in]" : "[in, out]") << ", got " << x.sizes() << " and "
         << weight.sizes();
    throw Error(text.str());
  }
  return MatrixProduct::apply(x, weight, out_in, product);
}

}  // namespace crnet
