// Stands in for cuBLAS: the calls that the backend makes, with products in a fixed order, so that
// an element depends on its own row and column only.
#pragma once

#include <cuda_runtime.h>

#include "kernels/base/float16.h"

enum cublasStatus_t { CUBLAS_STATUS_SUCCESS = 0, CUBLAS_STATUS_INVALID_VALUE = 7 };
enum cublasOperation_t { CUBLAS_OP_N = 0, CUBLAS_OP_T = 1 };
enum cudaDataType { CUDA_R_32F = 0, CUDA_R_16F = 2 };
enum cublasComputeType_t { CUBLAS_COMPUTE_32F = 68 };
enum cublasGemmAlgo_t { CUBLAS_GEMM_DEFAULT = -1 };

struct cublasContext {
  cudaStream_t stream = nullptr;
  void* workspace = nullptr;
};
using cublasHandle_t = cublasContext*;

inline const char* cublasGetStatusString(cublasStatus_t) { return "emulated error"; }
inline cublasStatus_t cublasCreate(cublasHandle_t* handle) {
  *handle = new cublasContext();
  return CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasDestroy(cublasHandle_t handle) {
  delete handle;
  return CUBLAS_STATUS_SUCCESS;
}
// As in cuBLAS, the workspace is the library's own again afterwards.
inline cublasStatus_t cublasSetStream(cublasHandle_t handle, cudaStream_t stream) {
  *handle = {stream, nullptr};
  return CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasSetWorkspace(cublasHandle_t handle, void* workspace, size_t) {
  handle->workspace = workspace;
  return CUBLAS_STATUS_SUCCESS;
}

namespace simt {

// c[j * ldc + i] = alpha * sum over ascending l of a[i * lda + l] * b[j * ldb + l] + beta * c.
inline void MultiplyHalves(int m, int n, int k, float alpha, const uint16_t* a, int lda,
                           const uint16_t* b, int ldb, float beta, float* c, int ldc) {
  using Lanes = float __attribute__((vector_size(16)));
  constexpr int kLanes = 4, kVectors = 8, kRows = kLanes * kVectors;
  const auto columns = static_cast<size_t>(k);
  std::vector<float> x(static_cast<size_t>(n) * columns), panel(columns * kRows);
  for (int j = 0; j < n; ++j) {
    for (int l = 0; l < k; ++l)
      x[static_cast<size_t>(j) * columns + static_cast<size_t>(l)] =
          lift::HalfToFloat(b[static_cast<int64_t>(j) * ldb + l]);
  }
  for (int first = 0; first < m; first += kRows) {
    const int rows = std::min(kRows, m - first);
    std::fill(panel.begin(), panel.end(), 0.0f);
    for (int i = 0; i < rows; ++i) {
      const uint16_t* row = a + static_cast<int64_t>(first + i) * lda;
      for (int l = 0; l < k; ++l)
        panel[static_cast<size_t>(l * kRows + i)] = lift::HalfToFloat(row[l]);
    }
    for (int j = 0; j < n; ++j) {
      Lanes sums[kVectors] = {};
      const float* from = x.data() + static_cast<size_t>(j) * columns;
      const float* w = panel.data();
      for (int l = 0; l < k; ++l, w += kRows) {
        for (int v = 0; v < kVectors; ++v) {
          Lanes lanes;
          std::memcpy(&lanes, w + v * kLanes, sizeof(lanes));
          sums[v] += lanes * from[l];
        }
      }
      float* to = c + static_cast<int64_t>(j) * ldc + first;
      for (int i = 0; i < rows; ++i) {
        const float sum = alpha * sums[i / kLanes][i % kLanes];
        to[i] = beta == 0 ? sum : sum + beta * to[i];
      }
    }
  }
}

}  // namespace simt

// Column-major C [m, n] = alpha A^T B + beta C, A [k, m] and B [k, n] of fp16, C of float.
inline cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t of_a,
                                   cublasOperation_t of_b, int m, int n, int k, const void* alpha,
                                   const void* a, cudaDataType a_type, int lda, const void* b,
                                   cudaDataType b_type, int ldb, const void* beta, void* c,
                                   cudaDataType c_type, int ldc, cublasComputeType_t,
                                   cublasGemmAlgo_t) {
  if (of_a != CUBLAS_OP_T || of_b != CUBLAS_OP_N || a_type != CUDA_R_16F || b_type != CUDA_R_16F ||
      c_type != CUDA_R_32F || m <= 0 || n <= 0 || k <= 0 || lda < k || ldb < k || ldc < m ||
      handle->workspace == nullptr)
    return CUBLAS_STATUS_INVALID_VALUE;
  const float alpha_now = *static_cast<const float*>(alpha);
  const float beta_now = *static_cast<const float*>(beta);
  handle->stream->Do([=] {
    simt::MultiplyHalves(m, n, k, alpha_now, static_cast<const uint16_t*>(a), lda,
                         static_cast<const uint16_t*>(b), ldb, beta_now, static_cast<float*>(c),
                         ldc);
  });
  return CUBLAS_STATUS_SUCCESS;
}
