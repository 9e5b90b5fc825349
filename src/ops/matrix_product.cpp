#include "crnet/ops/matrix_product.h"

#include "crnet/core/error.h"
#include "crnet/core/format.h"
#include "ops/carried_gradient.h"
#include "ops/product.h"
#include "ops/remade.h"
#include "ops/weight_product.h"

namespace crnet {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;

bool are_joined(const Tensor& x, size_t num_weights, bool out_in) {
  return !out_in && num_weights > 1 && x.numel() >= kRowsToJoin * x.size(-1);
}

// Columns of `matrix` beside each other, as wide as each of `like` is in its last dimension.
tensor_list split(const Tensor& matrix, at::TensorList like) {
  tensor_list parts;
  int64_t begin = 0;
  for (const Tensor& t : like) {
    parts.push_back(matrix.narrow(1, begin, t.size(-1)));
    begin += t.size(-1);
  }
  return parts;
}

class MatrixProducts : public torch::autograd::Function<MatrixProducts> {
 public:
  static tensor_list forward(AutogradContext* ctx, const Tensor& x, at::TensorList weights,
                             bool out_in, const std::vector<Tensor*>& held,
                             const RowWidths& widths) {
    RECORD_USER_SCOPE("crnet::matrix_product");
    ctx->set_materialize_grads(false);
    tensor_list kept = {to_save(ctx, "x", x)}, results;
    for (const Tensor& weight : weights) {
      kept.push_back(as_factor(weight, x, factor_sizes(weight, out_in, widths)));
    }
    const tensor_list computed =
        multiply_missing(x, {kept.begin() + 1, kept.end()}, out_in, held);  // [..., out]
    for (size_t i = 0; i < weights.size(); ++i) {
      const Tensor& product = is_held(held, i) ? *held[i] : computed[i];
      results.push_back(product.variable_data());  // it gets a graph, the held tensor none
      if (!held.empty() && held[i] != nullptr) *held[i] = product;
    }
    ctx->save_for_backward(kept);
    std::vector<int64_t> masters, sizes;
    for (const Tensor& weight : weights) {
      masters.push_back(static_cast<int64_t>(weight.scalar_type()));
      sizes.insert(sizes.end(), {weight.size(0), weight.size(1)});
    }
    ctx->saved_data["out_in"] = out_in;
    ctx->saved_data["masters"] = masters;
    ctx->saved_data["sizes"] = sizes;
    accept_carried<MatrixProducts>(ctx, weights.size());
    return results;
  }

  static tensor_list backward(AutogradContext* ctx, tensor_list grad_outputs) {
    RECORD_USER_SCOPE("crnet::matrix_product_backward");
    const auto saved = ctx->get_saved_variables();
    const Tensor x = from_saved(ctx, "x", saved[0]);
    const tensor_list weights(saved.begin() + 1, saved.end());
    const bool out_in = ctx->saved_data["out_in"].toBool();
    const auto masters = ctx->saved_data["masters"].toIntVector();
    const auto sizes = ctx->saved_data["sizes"].toIntVector();
    const auto size_of = [&](size_t i) { return at::IntArrayRef(sizes).slice(2 * i, 2); };
    tensor_list dy;  // [N, out]; undefined where nothing depends on the product
    bool has_all = true;
    for (size_t i = 0; i < weights.size(); ++i) {
      dy.push_back(gradient_of_product(grad_outputs[i], take_carried(ctx, i)));
      grad_outputs[i].reset();
      has_all = has_all && dy[i].defined();
    }
    const Tensor rows = as_matrix(x);  // [N, in]
    Tensor dx;
    // None of the layout, of what is held and of the widths.
    tensor_list gradients(1 + weights.size() + 3);
    if (has_all && are_joined(x, weights.size(), out_in)) {
      const Tensor all = at::cat(dy, 1);
      dx = product_of(all, at::cat(weights, 1).t());
      const auto dtype = static_cast<torch::ScalarType>(masters[0]);
      const tensor_list dw = split(product_as(dtype, rows.t(), all), weights);
      for (size_t i = 0; i < weights.size(); ++i) {
        gradients[1 + i] =
            without_padding(dw[i].to(static_cast<torch::ScalarType>(masters[i])), size_of(i));
      }
    } else {
      for (size_t i = 0; i < weights.size(); ++i) {
        if (!dy[i].defined()) continue;
        add_product_to(dx, dy[i], in_out(weights[i], out_in).t());
        const auto dtype = static_cast<torch::ScalarType>(masters[i]);
        const Tensor dw =
            out_in ? product_as(dtype, dy[i].t(), rows) : product_as(dtype, rows.t(), dy[i]);
        gradients[1 + i] = without_padding(dw, size_of(i));
        dy[i].reset();
      }
    }
    if (dx.defined()) gradients[0] = as_gradient_of(x, dx);
    return gradients;
  }

 private:
  static bool is_held(const std::vector<Tensor*>& held, size_t i) {
    return !held.empty() && held[i] != nullptr && held[i]->defined();
  }

  // Undefined where they are held.
  static tensor_list multiply_missing(const Tensor& x, const tensor_list& weights, bool out_in,
                                      const std::vector<Tensor*>& held) {
    tensor_list products(weights.size());
    bool misses_any = false;
    for (size_t i = 0; i < weights.size(); ++i) misses_any = misses_any || !is_held(held, i);
    if (misses_any && are_joined(x, weights.size(), out_in)) {
      products = split(product_of(as_matrix(x), at::cat(weights, 1)), weights);
    } else {
      for (size_t i = 0; i < weights.size(); ++i) {
        if (!is_held(held, i)) products[i] = product_of(as_matrix(x), in_out(weights[i], out_in));
      }
    }
    auto sizes = x.sizes().vec();
    for (Tensor& product : products) {
      if (!product.defined()) continue;
      sizes.back() = product.size(1);
      product = product.view(sizes);
    }
    return products;
  }

  static void add_product_to(Tensor& sum, const Tensor& left, const Tensor& right) {
    if (sum.defined()) {
      add_product(sum, left, right);
    } else {
      sum = product_of(left, right);
    }
  }
};

}  // namespace

std::vector<Tensor> matrix_products(const Tensor& x, const std::vector<Tensor>& weights,
                                    WeightLayout layout, const std::vector<Tensor*>& products,
                                    const RowWidths& widths) {
  const bool out_in = layout == WeightLayout::kOutIn;
  for (const Tensor& weight : weights) check_product(x, weight, out_in, widths);
  if (weights.empty()) return {};
  if (!products.empty() && products.size() != weights.size()) {
    throw Error(format("[matrix_products] expected a place for each of %zu products, got %zu",
                       weights.size(), products.size()));
  }
  return MatrixProducts::apply(x, at::TensorList(weights), out_in, products, widths);
}

Tensor matrix_product(const Tensor& x, const Tensor& weight, WeightLayout layout, Tensor* product,
                      const RowWidths& widths) {
  return matrix_products(x, {weight}, layout, {product}, widths)[0];
}

}  // namespace crnet
