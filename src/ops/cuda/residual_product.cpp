// Y = c Y_prev + low · B as one product of cuBLASLt: c Y_prev is its addend, with c on the device.
#include <ATen/Context.h>
#include <ATen/cuda/CUDAContextLight.h>
#include <cublasLt.h>

#include <map>
#include <mutex>
#include <optional>
#include <tuple>
#include <type_traits>

#include "crnet/core/error.h"
#include "crnet/core/format.h"
#include "ops/cuda/kernels.h"
#include "ops/cuda/residual_layout.h"

namespace crnet::cuda {
namespace {

void check(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw Error(
      format("[cuda] expected cuBLASLt to %s, got %s", what, cublasLtGetStatusString(status)));
}

// Everything that an algorithm depends on. Addresses do not count: all are taken to be aligned to
// 16 bytes and no more. So a product that is repeated, with rows as far apart, takes the same
// algorithm and gives the same bits, wherever its operands lie.
using Key =
    std::tuple<int, cudaDataType_t, cublasComputeType_t, int64_t, int64_t, int64_t, int64_t>;

// fp32 sums; TF32 products of fp32 where LibTorch's user allows them.
template <class T>
cublasComputeType_t compute_type() {
  const bool allows_tf32 =
      at::globalContext().float32Precision(at::Float32Backend::CUDA, at::Float32Op::MATMUL) ==
      at::Float32Precision::TF32;
  return std::is_same_v<T, float> && allows_tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32
                                                 : CUBLAS_COMPUTE_32F;
}

struct Problem {
  cublasLtMatmulDescOpaque_t operation;
  cublasLtMatrixLayoutOpaque_t left, right, result;
};

void describe(cublasLtMatrixLayoutOpaque_t& layout, cudaDataType_t type, const ColumnMajor& m) {
  check(cublasLtMatrixLayoutInit(&layout, type, static_cast<uint64_t>(m.rows),
                                 static_cast<uint64_t>(m.columns), m.leading),
        "describe a matrix");
}

Problem describe(cudaDataType_t type, cublasComputeType_t compute, const ResidualLayout& layout) {
  Problem problem;
  check(cublasLtMatmulDescInit(&problem.operation, compute, CUDA_R_32F), "describe a product");
  const cublasLtPointerMode_t scalars = CUBLASLT_POINTER_MODE_DEVICE;
  check(cublasLtMatmulDescSetAttribute(&problem.operation, CUBLASLT_MATMUL_DESC_POINTER_MODE,
                                       &scalars, sizeof(scalars)),
        "take scalars from the device");
  describe(problem.left, type, layout.left);
  describe(problem.right, type, layout.right);
  describe(problem.result, type, layout.result);
  return problem;
}

template <class V>
void prefer(cublasLtMatmulPreferenceOpaque_t& preference,
            cublasLtMatmulPreferenceAttributes_t attribute, V value) {
  check(cublasLtMatmulPreferenceSetAttribute(&preference, attribute, &value, sizeof(value)),
        "take a preference");
}

std::optional<cublasLtMatmulAlgo_t> find_algorithm(cublasLtHandle_t handle, Problem& problem) {
  cublasLtMatmulPreferenceOpaque_t preference;
  check(cublasLtMatmulPreferenceInit(&preference), "take preferences");
  prefer<uint64_t>(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                   at::cuda::getCUDABlasLtWorkspaceSize());
  // Parts of a sum are added up in fp32, never in bf16.
  prefer<uint32_t>(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                   CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE);
  for (const auto alignment :
       {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
    prefer<uint32_t>(preference, alignment, 16);
  }
  cublasLtMatmulHeuristicResult_t best = {};
  int num_found = 0;
  const auto status = cublasLtMatmulAlgoGetHeuristic(
      handle, &problem.operation, &problem.left, &problem.right, &problem.result, &problem.result,
      &preference, 1, &best, &num_found);
  if (status == CUBLAS_STATUS_NOT_SUPPORTED || num_found == 0) return std::nullopt;
  check(status, "find an algorithm");
  check(best.state, "find an algorithm");
  return best.algo;
}

// Found once per shape.
std::optional<cublasLtMatmulAlgo_t> algorithm_for(const Key& key, cublasLtHandle_t handle,
                                                  Problem& problem) {
  static std::mutex mutex;
  static std::map<Key, std::optional<cublasLtMatmulAlgo_t>> found;
  const std::lock_guard lock(mutex);
  const auto known = found.find(key);
  if (known != found.end()) return known->second;
  return found.emplace(key, find_algorithm(handle, problem)).first->second;
}

}  // namespace

template <class T>
bool residual_product(const T* low, int64_t low_row, const T* b, const T* y_prev,
                      const float* scales, T* y, int64_t tokens, int64_t rank, int64_t out,
                      Stream stream) {
  if (tokens == 0 || out == 0) return true;
  if (rank == 0) return false;
  const auto type = std::is_same_v<T, float> ? CUDA_R_32F : CUDA_R_16BF;
  const auto compute = compute_type<T>();
  Problem problem = describe(type, compute, residual_layout(tokens, rank, out, low_row));
  const cublasLtHandle_t handle = at::cuda::getCurrentCUDABlasLtHandle();
  const Key key = {c10::cuda::current_device(), type, compute, tokens, rank, out, low_row};
  const auto algorithm = algorithm_for(key, handle, problem);
  if (!algorithm) return false;
  const float *c = scales, *one = scales + 1;
  check(cublasLtMatmul(handle, &problem.operation, one, b, &problem.left, low, &problem.right, c,
                       y_prev, &problem.result, y, &problem.result, &*algorithm,
                       at::cuda::getCUDABlasLtWorkspace(), at::cuda::getCUDABlasLtWorkspaceSize(),
                       stream),
        "multiply");
  return true;
}

template bool residual_product(const float*, int64_t, const float*, const float*, const float*,
                               float*, int64_t, int64_t, int64_t, Stream);
template bool residual_product(const bfloat16*, int64_t, const bfloat16*, const bfloat16*,
                               const float*, bfloat16*, int64_t, int64_t, int64_t, Stream);

}  // namespace crnet::cuda
