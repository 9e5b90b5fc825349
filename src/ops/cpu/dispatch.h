// Whether and how an operator's CPU kernel takes a tensor.
#pragma once

#include <ATen/Parallel.h>
#include <torch/types.h>

#include <type_traits>

#include "ops/cpu/kernels.h"

namespace crnet::cpu {

/// True where the kernels can read these tensors as they are: on the CPU, contiguous, fp32 or bf16,
/// all of one dtype.
template <class... Tensors>
bool takes(const torch::Tensor& first, const Tensors&... rest) {
  const auto dtype = first.scalar_type();
  const auto fits = [dtype](const torch::Tensor& t) {
    return t.device().is_cpu() && t.is_contiguous() && t.scalar_type() == dtype;
  };
  return (dtype == torch::kFloat32 || dtype == torch::kBFloat16) && fits(first) &&
         (fits(rest) && ...);
}

/// Calls f with a value of the element type (float or bfloat16) of `tensor`.
template <class F>
void with_element_type(const torch::Tensor& tensor, F&& f) {
  if (tensor.scalar_type() == torch::kFloat32) {
    f(float{});
  } else {
    f(bfloat16{});
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

/// Rows of `columns` elements that make a piece of work worth a thread.
inline int64_t grain_rows(int64_t columns) {
  return std::max<int64_t>(1, 32768 / columns);
}

/// The number of pieces that work on `rows` rows is split into where each needs its own sum. It
/// depends on nothing but the thread count, so that a run repeats bit by bit.
inline int64_t num_partial_sums(int64_t rows) {
  return std::max<int64_t>(1, std::min<int64_t>(at::get_num_threads(), rows));
}

}  // namespace crnet::cpu
