// What src/ops/cuda has, for programs that do without LibTorch's CUDA: nobody gets to call it,
// since there are no tensors on a GPU. The linker finds these before the real ones in the library,
// and leaves those there, with all that they need.
#include "ops/cuda/kernels.h"

#include "crnet/core/error.h"
#include "ops/cuda/dispatch.h"
#include "ops/cuda_graph.h"

namespace crnet::cuda {
namespace {

[[noreturn]] void refuse() {
  throw Error("[cuda] expected tensors on the CPU, since this program is built without CUDA");
}

}  // namespace

Stream current_stream(const torch::Tensor&) {
  refuse();
}

std::unique_ptr<CudaGraph> make_graph(torch::Device, CudaGraph*) {
  refuse();
}

bool forbid_waiting(bool) {
  return false;
}

template <class T>
void rms_norm(const T*, const T*, const float*, T*, T*, float*, int64_t, int64_t, float, Stream) {
  refuse();
}

template <class T>
void rms_norm_backward(const T*, const T*, const float*, const float*, const T*, T*, float*,
                       int64_t, int64_t, Stream) {
  refuse();
}

template <class T>
void rope(const T*, const float*, const float*, T*, int64_t, int64_t, int64_t, int64_t, float,
          Stream) {
  refuse();
}

template <class T>
void rope_backward(const T*, const float*, const float*, const CarriedTo<T>&, T*, float*, float*,
                   int64_t, int64_t, int64_t, int64_t, Stream) {
  refuse();
}

template <class T>
void swiglu(const T*, const T*, T*, int64_t, Stream) {
  refuse();
}

template <class T>
void swiglu_backward(T*, const T*, const T*, T*, T*, bool, int64_t, Stream) {
  refuse();
}

template <class T>
void swiglu_backward_carried(T*, const T*, const T*, const CarriedTo<T>&, const CarriedTo<T>&, T*,
                             T*, float*, float*, float*, int64_t, Stream) {
  refuse();
}

template <class T>
void cross_entropy(T*, const int64_t*, int64_t, const float*, float*, int64_t, int64_t, Stream) {
  refuse();
}

void signed_scale(const float*, float, float*, Stream) {
  refuse();
}

template <class T>
void cross_layer(CrossLayerPass, const T*, const T*, const float*, T*, float*, float*, int64_t,
                 Stream) {
  refuse();
}

template <class T>
bool residual_product(const T*, int64_t, const T*, const T*, const float*, T*, int64_t, int64_t,
                      int64_t, Stream) {
  refuse();
}

template <class T>
void subtract_and_divide(const T*, T*, float, int64_t, Stream) {
  refuse();
}

#define CRNET_FOR_ELEMENT(T)                                                \
  template decltype(rms_norm<T>) rms_norm<T>;                               \
  template decltype(rms_norm_backward<T>) rms_norm_backward<T>;             \
  template decltype(rope<T>) rope<T>;                                       \
  template decltype(swiglu<T>) swiglu<T>;                                   \
  template decltype(swiglu_backward<T>) swiglu_backward<T>;                 \
  template decltype(swiglu_backward_carried<T>) swiglu_backward_carried<T>; \
  template decltype(rope_backward<T>) rope_backward<T>;                     \
  template decltype(cross_entropy<T>) cross_entropy<T>;                     \
  template decltype(cross_layer<T>) cross_layer<T>;                         \
  template decltype(residual_product<T>) residual_product<T>;               \
  template decltype(subtract_and_divide<T>) subtract_and_divide<T>
CRNET_FOR_ELEMENT(float);
CRNET_FOR_ELEMENT(bfloat16);

}  // namespace crnet::cuda
