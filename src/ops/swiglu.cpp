#include "crnet/ops/swiglu.h"

#include <sstream>

#include "crnet/core/error.h"
#include "ops/carried_gradient.h"
#include "ops/cpu/dispatch.h"
#include "ops/cross_layer.h"
#include "ops/cuda/dispatch.h"
#include "ops/parallel.h"
#include "ops/product.h"
#include "ops/remade.h"
#include "ops/weight_product.h"

namespace crnet {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;

constexpr int64_t kGrain = 16384;

Tensor forward_cpu(const Tensor& gate, const Tensor& up) {
  Tensor y = torch::empty_like(gate);
  cpu::with_element_type(gate, [&](auto element) {
    using T = decltype(element);
    parallel_for(0, gate.numel(), kGrain, [&](int64_t first, int64_t last) {
      cpu::kernels<T>().swiglu(cpu::const_data<T>(gate) + first, cpu::const_data<T>(up) + first,
                               cpu::data<T>(y) + first, last - first);
    });
  });
  return y;
}

// dy, contiguous, is y once more where it may become that.
struct Gradients {
  Tensor gate, up;
};

Gradients backward_cpu(const Tensor& dy, const Tensor& gate, const Tensor& up, bool becomes_y) {
  Gradients result{torch::empty_like(gate), torch::empty_like(up)};
  cpu::with_element_type(gate, [&](auto element) {
    using T = decltype(element);
    parallel_for(0, gate.numel(), kGrain, [&](int64_t first, int64_t last) {
      cpu::kernels<T>().swiglu_backward(cpu::data<T>(dy) + first, cpu::const_data<T>(gate) + first,
                                        cpu::const_data<T>(up) + first,
                                        cpu::data<T>(result.gate) + first,
                                        cpu::data<T>(result.up) + first, last - first, becomes_y);
    });
  });
  return result;
}

Tensor forward_cuda(const Tensor& gate, const Tensor& up) {
  Tensor y = torch::empty_like(gate);
  cuda::with_stream(gate, [&](auto element, cuda::Stream stream) {
    using T = decltype(element);
    cuda::swiglu(cuda::const_data<T>(gate), cuda::const_data<T>(up), cuda::data<T>(y), gate.numel(),
                 stream);
  });
  return y;
}

Gradients backward_cuda(const Tensor& dy, const Tensor& gate, const Tensor& up, bool becomes_y) {
  Gradients result{torch::empty_like(gate), torch::empty_like(up)};
  cuda::with_stream(gate, [&](auto element, cuda::Stream stream) {
    using T = decltype(element);
    cuda::swiglu_backward(cuda::data<T>(dy), cuda::const_data<T>(gate), cuda::const_data<T>(up),
                          cuda::data<T>(result.gate), cuda::data<T>(result.up), becomes_y,
                          gate.numel(), stream);
  });
  return result;
}

Gradients backward_plain(const Tensor& dy, const Tensor& gate, const Tensor& up, bool becomes_y) {
  const Tensor activated = torch::silu(gate);
  const Gradients result{at::silu_backward(dy * up, gate), dy * activated};
  Tensor y = dy;
  if (becomes_y) at::mul_out(y, activated, up);
  return result;
}

Gradients backward_on_device(const Tensor& dy, const Tensor& gate, const Tensor& up,
                             bool becomes_y) {
  if (cpu::takes(gate, up)) return backward_cpu(dy, gate, up, becomes_y);
  if (cuda::takes(gate, up)) return backward_cuda(dy, gate, up, becomes_y);
  return backward_plain(dy, gate, up, becomes_y);
}

// The gradients of gate and up with what is carried to them; dy becomes y.
Gradients backward_carried_cuda(const Tensor& dy, const Tensor& gate, const Tensor& up,
                                const OpenGradient& to_gate, const OpenGradient& to_up) {
  const Gradients result{to_gate.carried.gradient.view_as(gate),
                         to_up.carried.gradient.view_as(up)};
  const auto fp32 = to_gate.carried.scale.options();
  const Tensor partial = torch::empty({2, cuda::kDotPartials}, fp32);
  const Tensor gate_dot = torch::empty({}, fp32), up_dot = torch::empty({}, fp32);
  cuda::with_stream(gate, [&](auto element, cuda::Stream stream) {
    using T = decltype(element);
    const auto from = [](const OpenGradient& open) {
      return cuda::CarriedTo<T>{cuda::const_data<T>(open.y_prev),
                                cuda::const_data<float>(open.carried.scale)};
    };
    cuda::swiglu_backward_carried(cuda::data<T>(dy), cuda::const_data<T>(gate),
                                  cuda::const_data<T>(up), from(to_gate), from(to_up),
                                  cuda::data<T>(result.gate), cuda::data<T>(result.up),
                                  cuda::data<float>(partial), cuda::data<float>(gate_dot),
                                  cuda::data<float>(up_dot), gate.numel(), stream);
  });
  close_gradient(to_gate, gate_dot);
  close_gradient(to_up, up_dot);
  return result;
}

// A sum in the memory of what was carried.
Tensor close_with(const OpenGradient& open, const Tensor& own) {
  const Tensor sum = open.carried.gradient.view_as(own);
  close_gradient(open, pass_over_gradient(CrossLayerPass::kAdd, own, open.y_prev.view_as(own),
                                          open.carried.scale, sum));
  return sum;
}

// In the backward of an operator whose first inputs are gate and up; dy becomes y.
Gradients backward_with_carried(const Tensor& dy, const Tensor& gate, const Tensor& up) {
  const auto open = open_gradients({0, 1}, gate);
  if (open.empty()) return backward_on_device(dy, gate, up, /*becomes_y=*/true);
  if (cuda::takes(gate, up)) return backward_carried_cuda(dy, gate, up, open[0], open[1]);
  const Gradients own = backward_on_device(dy, gate, up, /*becomes_y=*/true);
  return {close_with(open[0], own.gate), close_with(open[1], own.up)};
}

Tensor forward_on_device(const Tensor& gate, const Tensor& up) {
  if (cpu::takes(gate, up)) return forward_cpu(gate, up);
  return cuda::takes(gate, up) ? forward_cuda(gate, up) : plain::swiglu(gate, up);
}

class Swiglu : public torch::autograd::Function<Swiglu> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& gate, const Tensor& up) {
    RECORD_USER_SCOPE("crnet::swiglu");
    ctx->save_for_backward({gate, up});
    offer_output(ctx, [ctx] { return remake(ctx); });
    return forward_on_device(gate, up);
  }

  static Tensor remake(AutogradContext* ctx) {
    const auto saved = ctx->get_saved_variables();
    return forward_on_device(saved[0], saved[1]);
  }

  static tensor_list backward(AutogradContext* ctx, tensor_list grad_outputs) {
    RECORD_USER_SCOPE("crnet::swiglu_backward");
    let_go_of_outputs(ctx);
    const auto saved = ctx->get_saved_variables();
    const auto gradients =
        backward_on_device(grad_outputs[0].contiguous(), saved[0], saved[1], /*becomes_y=*/false);
    return {gradients.gate, gradients.up};
  }
};

// One product; its twin for any x is MatrixProducts.
class SwigluProduct : public torch::autograd::Function<SwigluProduct> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& gate, const Tensor& up,
                        const Tensor& weight, bool out_in, Tensor* held, const RowWidths& widths) {
    RECORD_USER_SCOPE("crnet::swiglu_product");
    ctx->set_materialize_grads(false);
    const Tensor factor = as_factor(weight, gate, factor_sizes(weight, out_in, widths));
    Tensor product = held != nullptr ? *held : Tensor();
    if (!product.defined()) {
      product = product_of(as_matrix(forward_on_device(gate, up)), in_out(factor, out_in));
      auto sizes = gate.sizes().vec();
      sizes.back() = product.size(1);
      product = product.view(sizes);
    }
    if (held != nullptr) *held = product;
    ctx->save_for_backward({gate, up, factor});
    ctx->saved_data["out_in"] = out_in;
    ctx->saved_data["master"] = static_cast<int64_t>(weight.scalar_type());
    ctx->saved_data["sizes"] = weight.sizes().vec();
    accept_carried<SwigluProduct>(ctx);
    return product.variable_data();  // it gets a graph, the held tensor none
  }

  static tensor_list backward(AutogradContext* ctx, tensor_list grad_outputs) {
    RECORD_USER_SCOPE("crnet::swiglu_product_backward");
    const auto saved = ctx->get_saved_variables();
    const Tensor &gate = saved[0], &up = saved[1], &factor = saved[2];
    const bool out_in = ctx->saved_data["out_in"].toBool();
    const auto master = static_cast<torch::ScalarType>(ctx->saved_data["master"].toInt());
    const Tensor dy = gradient_of_product(grad_outputs[0], take_carried(ctx));  // [N, out]
    if (!dy.defined()) return tensor_list(6);
    const Tensor product = product_of(dy, in_out(factor, out_in).t());  // [N, F], dX and then X
    const auto gradients = backward_with_carried(product.view_as(gate), gate, up);
    const Tensor dw =
        out_in ? product_as(master, dy.t(), product) : product_as(master, product.t(), dy);
    const auto sizes = ctx->saved_data["sizes"].toIntVector();
    return {gradients.gate, gradients.up, without_padding(dw, sizes), Tensor(), Tensor(), Tensor()};
  }
};

void check(const Tensor& gate, const Tensor& up) {
  if (gate.sizes() == up.sizes() && gate.scalar_type() == up.scalar_type()) return;
  std::ostringstream text;
  text << "[swiglu] expected gate and up of one shape and dtype, got " << gate.sizes() << " "
       << gate.scalar_type() << " and " << up.sizes() << " " << up.scalar_type();
  throw Error(text.str());
}

}  // namespace

RemadeOutputPtr swiglu_output(torch::autograd::Node* node, uint32_t number) {
  return output_offered_by<Swiglu>(node, number);
}

Tensor swiglu(const Tensor& gate, const Tensor& up) {
  check(gate, up);
  return Swiglu::apply(gate, up);
}

Tensor swiglu_product(const Tensor& gate, const Tensor& up, const Tensor& weight,
                      WeightLayout layout, Tensor* product, const RowWidths& widths) {
  const bool out_in = layout == WeightLayout::kOutIn;
  check(gate, up);
  check_product(gate, weight, out_in, widths);
  return SwigluProduct::apply(gate, up, weight, out_in, product, widths);
}

namespace plain {

Tensor swiglu(const Tensor& gate, const Tensor& up) {
  return torch::silu(gate) * up;
}

}  // namespace plain
}  // namespace crnet
