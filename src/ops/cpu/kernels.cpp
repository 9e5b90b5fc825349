// Compiled once for each CRNET_CPU_VARIANT (see cmake/CrnetCpuKernels.cmake) with
// -fassociative-math, so that the plain loops below become vector code. Only C headers: see
// kernels.h.
#include "ops/cpu/kernels.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "ops/cpu/elements.h"

namespace crnet::cpu::CRNET_CPU_VARIANT {
namespace {

inline float sigmoid(float x) {
  return 1.0f / (1.0f + exp_fast(-x));
}

template <class T>
void rms_norm(const T* x, const T* delta, const float* weight, T* sum, T* y, float* rstd,
              int64_t rows, int64_t columns, float epsilon) {
  if (delta != nullptr) {
    // Row by row, so that what is read next is in the cache.
    for (int64_t row = 0; row < rows; ++row, x += columns, delta += columns, sum += columns) {
      for (int64_t j = 0; j < columns; ++j) store(sum + j, load(x + j) + load(delta + j));
      rms_norm<T>(sum, nullptr, weight, nullptr, y + row * columns, rstd + row, 1, columns,
                  epsilon);
    }
    return;
  }
  for (int64_t row = 0; row < rows; ++row, x += columns, y += columns) {
    float squares = 0;
    for (int64_t j = 0; j < columns; ++j) {
      const float v = load(x + j);
      squares += v * v;
    }
    const float r = 1.0f / sqrtf(squares / static_cast<float>(columns) + epsilon);
    rstd[row] = r;
    for (int64_t j = 0; j < columns; ++j) store(y + j, load(x + j) * r * weight[j]);
  }
}

template <class T>
void rms_norm_backward(const T* dy, const T* x, const float* weight, const float* rstd,
                       const T* dsum, T* dx, float* dweight, int64_t rows, int64_t columns) {
  for (int64_t row = 0; row < rows; ++row, dy += columns, x += columns, dx += columns) {
    const float r = rstd[row];
    float dot = 0;
    for (int64_t j = 0; j < columns; ++j) {
      const float g = load(dy + j), v = load(x + j);
      dot += g * weight[j] * v;
      dweight[j] += g * v * r;
    }
    const float along = dot * r * r / static_cast<float>(columns);
    const auto gradient = [&](int64_t j) {
      return r * (load(dy + j) * weight[j] - load(x + j) * along);
    };
    if (dsum == nullptr) {
      for (int64_t j = 0; j < columns; ++j) store(dx + j, gradient(j));
    } else {
      for (int64_t j = 0; j < columns; ++j) store(dx + j, gradient(j) + load(dsum + j));
      dsum += columns;
    }
  }
}

template <class T>
void rope(const T* x, const float* cosine, const float* sine, T* y, int64_t heads, int64_t size,
          float direction) {
  const int64_t half = size / 2;
  for (int64_t head = 0; head < heads; ++head, x += size, y += size) {
    for (int64_t i = 0; i < half; ++i) {
      const float a = load(x + i), b = load(x + half + i);
      const float c = cosine[i], s = sine[i] * direction;
      store(y + i, a * c - b * s);
      store(y + half + i, b * c + a * s);
    }
  }
}

template <class T>
void swiglu(const T* gate, const T* up, T* y, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const float g = load(gate + i);
    store(y + i, g * sigmoid(g) * load(up + i));
  }
}

template <class T, bool kBecomesY>
void swiglu_backward_pass(T* dy, const T* gate, const T* up, T* dgate, T* dup, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const float d = load(dy + i), g = load(gate + i), u = load(up + i);
    const float s = sigmoid(g);
    store(dup + i, d * g * s);
    store(dgate + i, d * u * s * (1.0f + g * (1.0f - s)));
    if constexpr (kBecomesY) store(dy + i, g * s * u);
  }
}

template <class T>
void swiglu_backward(T* dy, const T* gate, const T* up, T* dgate, T* dup, int64_t count,
                     bool becomes_y) {
  const auto pass = becomes_y ? swiglu_backward_pass<T, true> : swiglu_backward_pass<T, false>;
  pass(dy, gate, up, dgate, dup, count);
}

// Lanes by hand: the compiler may not reorder a maximum, because of NaN (which this passes over;
// exp_sum then meets it).
template <class T>
float row_maximum(const T* logits, int64_t vocab) {
  constexpr int64_t kLanes = 32;
  float lanes[kLanes];
  for (int64_t k = 0; k < kLanes; ++k) lanes[k] = -INFINITY;
  int64_t j = 0;
  for (; j + kLanes <= vocab; j += kLanes) {
    for (int64_t k = 0; k < kLanes; ++k) {
      const float v = load(logits + j + k);
      lanes[k] = v > lanes[k] ? v : lanes[k];
    }
  }
  float maximum = -INFINITY;
  for (; j < vocab; ++j) maximum = load(logits + j) > maximum ? load(logits + j) : maximum;
  for (int64_t k = 0; k < kLanes; ++k) maximum = lanes[k] > maximum ? lanes[k] : maximum;
  return maximum;
}

template <class T>
float exp_sum(const T* logits, int64_t vocab, float maximum) {
  float sum = 0;
  for (int64_t j = 0; j < vocab; ++j) sum += exp_fast(load(logits + j) - maximum);
  return sum;
}

template <class T>
float cross_entropy_loss_row(const T* logits, int64_t vocab, int64_t target) {
  if (target < 0) return 0;
  const float maximum = row_maximum(logits, vocab);
  return logf(exp_sum(logits, vocab, maximum)) + maximum - load(logits + target);
}

template <class T>
float cross_entropy_row(T* logits, int64_t vocab, int64_t target, float scale) {
  if (target < 0) {
    memset(logits, 0, static_cast<size_t>(vocab) * sizeof(T));
    return 0;
  }
  const float maximum = row_maximum(logits, vocab);
  const float at_target = load(logits + target);
  const float sum = exp_sum(logits, vocab, maximum);
  const float factor = scale / sum;
  // A subnormal number would make the products that read it dozens of times slower.
  for (int64_t j = 0; j < vocab; ++j) {
    const float p = exp_fast(load(logits + j) - maximum) * factor;
    store(logits + j, p < FLT_MIN ? 0.0f : p);
  }
  // Computed apart, so that p − 1 is not rounded twice.
  store(logits + target, exp_fast(at_target - maximum) * factor - scale);
  return logf(sum) + maximum - at_target;
}

template <class T, CrossLayerPass kPass, bool kDots>
double cross_layer_pass(const T* dy, const T* y_prev, T* out, float c, int64_t count) {
  constexpr int64_t kBlock = 4096;  // fp32 sums of this many, added up in fp64
  double total = 0;
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t end = begin + kBlock < count ? begin + kBlock : count;
    float sum = 0;
    for (int64_t i = begin; i < end; ++i) {
      float d = load(dy + i);
      if constexpr (kPass == CrossLayerPass::kAdd) {
        d += c * load(out + i);
        store(out + i, d);
      }
      if constexpr (kDots) sum += d * load(y_prev + i);
      if constexpr (kPass == CrossLayerPass::kScale) store(out + i, d * c);
    }
    total += sum;
  }
  return total;
}

template <class T>
double cross_layer(CrossLayerPass pass, const T* dy, const T* y_prev, T* out, float c,
                   int64_t count) {
  switch (pass) {
    case CrossLayerPass::kDot:
      return cross_layer_pass<T, CrossLayerPass::kDot, true>(dy, y_prev, out, c, count);
    case CrossLayerPass::kScale:
      return cross_layer_pass<T, CrossLayerPass::kScale, true>(dy, y_prev, out, c, count);
    case CrossLayerPass::kAdd:
      break;
  }
  return y_prev != nullptr
             ? cross_layer_pass<T, CrossLayerPass::kAdd, true>(dy, y_prev, out, c, count)
             : cross_layer_pass<T, CrossLayerPass::kAdd, false>(dy, y_prev, out, c, count);
}

template <class T>
void subtract_and_divide(const T* y, T* product, float c, int64_t count) {
  for (int64_t i = 0; i < count; ++i) store(product + i, (load(y + i) - load(product + i)) / c);
}

template <class T>
constexpr Kernels<T> kTable = {rms_norm<T>,
                               rms_norm_backward<T>,
                               rope<T>,
                               swiglu<T>,
                               swiglu_backward<T>,
                               cross_entropy_row<T>,
                               cross_entropy_loss_row<T>,
                               cross_layer<T>,
                               subtract_and_divide<T>};

}  // namespace

extern const Kernels<float> kFloatKernels;
extern const Kernels<bfloat16> kBFloat16Kernels;
const Kernels<float> kFloatKernels = kTable<float>;
const Kernels<bfloat16> kBFloat16Kernels = kTable<bfloat16>;

}  // namespace crnet::cpu::CRNET_CPU_VARIANT
