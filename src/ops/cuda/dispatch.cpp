#include "ops/cuda/dispatch.h"

#include <c10/cuda/CUDAStream.h>

namespace crnet::cuda {

Stream current_stream(const torch::Tensor& tensor) {
  return c10::cuda::getCurrentCUDAStream(tensor.get_device()).stream();
}

}  // namespace crnet::cuda
