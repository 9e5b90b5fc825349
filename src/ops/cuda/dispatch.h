// Whether and how an operator's kernel for NVIDIA GPUs takes a tensor: the twin of
// ops/cpu/dispatch.h. Without CRNET_CUDA nothing is taken. For sources of this layer alone, which
// all are compiled with it or without.
#pragma once

#include <c10/core/DeviceGuard.h>
#include <torch/types.h>

#include "ops/cuda/kernels.h"

namespace crnet::cuda {

#ifdef CRNET_CUDA
inline constexpr bool kIsCompiled = true;
#else
inline constexpr bool kIsCompiled = false;
#endif

/// True where the kernels can read these tensors as they are: on one GPU, contiguous, fp32 or bf16,
/// all of one dtype.
template <class... Tensors>
bool takes(const torch::Tensor& first, const Tensors&... rest) {
  const auto fits = [&](const torch::Tensor& t) {
    return t.device() == first.device() && t.is_contiguous() &&
           t.scalar_type() == first.scalar_type();
  };
  return kIsCompiled && first.is_cuda() &&
         (first.scalar_type() == torch::kFloat32 || first.scalar_type() == torch::kBFloat16) &&
         fits(first) && (fits(rest) && ...);
}

/// The same, with fp32 tensors on the same GPU beside `first`.
template <class... Tensors>
bool takes_with_fp32(const torch::Tensor& first, const Tensors&... fp32) {
  const auto fits = [&](const torch::Tensor& t) {
    return t.device() == first.device() && t.scalar_type() == torch::kFloat32 && takes(t);
  };
  return takes(first) && (fits(fp32) && ...);
}

/// LibTorch's stream of a tensor's GPU.
Stream current_stream(const torch::Tensor& tensor);

/// Calls f with a value of the element type (float or bfloat16) of `tensor` and the stream to use,
/// while the tensor's GPU is the current one.
template <class F>
void with_stream(const torch::Tensor& tensor, F&& f) {
  if constexpr (kIsCompiled) {
    const c10::DeviceGuard guard(tensor.device());
    const Stream stream = current_stream(tensor);
    if (tensor.scalar_type() == torch::kFloat32) {
      f(float{}, stream);
    } else {
      f(bfloat16{}, stream);
    }
  }
}

template <class T>
T* data(const torch::Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}
template <class T>
const T* const_data(const torch::Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}
/// The same; null of an undefined tensor.
template <class T>
T* data_or_null(const torch::Tensor& tensor) {
  return tensor.defined() ? data<T>(tensor) : nullptr;
}
template <class T>
const T* const_data_or_null(const torch::Tensor& tensor) {
  return tensor.defined() ? const_data<T>(tensor) : nullptr;
}

}  // namespace crnet::cuda
