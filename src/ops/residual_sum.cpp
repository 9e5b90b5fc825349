#include "crnet/ops/residual_sum.h"

#include <sstream>

#include "crnet/core/error.h"
#include "ops/remade.h"

namespace crnet {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;

class ResidualSum : public torch::autograd::Function<ResidualSum> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& y) {
    RECORD_USER_SCOPE("crnet::residual_sum");
    ctx->save_for_backward({x, y});
    offer_output<ResidualSum>(ctx);
    return x + y;
  }

  static Tensor remake(AutogradContext* ctx) {
    const auto saved = ctx->get_saved_variables();
    return saved[0] + saved[1];
  }

  static tensor_list backward(AutogradContext* ctx, tensor_list grad_outputs) {
    let_go_of_output(ctx);
    return {grad_outputs[0], grad_outputs[0]};
  }
};

}  // namespace

RemadeOutputPtr residual_sum_output(torch::autograd::Node* node) {
  return output_offered_by<ResidualSum>(node);
}

Tensor residual_sum(const Tensor& x, const Tensor& y) {
  if (x.sizes() != y.sizes() || x.scalar_type() != y.scalar_type()) {
    std::ostringstream text;
    text << "[residual_sum] expected x and y of one shape and dtype, got " << x.sizes() << " "
         << x.scalar_type() << " and " << y.sizes() << " " << y.scalar_type();
    throw Error(text.str());
  }
  return ResidualSum::apply(x, y);
}

}  // namespace crnet
