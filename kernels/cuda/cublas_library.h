// cuBLAS, found when it is first wanted: programs start without it, and prompts are then read by
// the sign product. Included by .cu files only.
#pragma once

#include <cublas_v2.h>

namespace lift::cuda {

// The calls that this backend makes.
struct CublasLibrary {
  decltype(&cublasCreate) create;
  decltype(&cublasDestroy) destroy;
  decltype(&cublasSetStream) set_stream;
  decltype(&cublasSetWorkspace) set_workspace;
  // cublasGemmEx, which the header overloads.
  cublasStatus_t (*gemm)(cublasHandle_t, cublasOperation_t, cublasOperation_t, int m, int n, int k,
                         const void* alpha, const void* a, cudaDataType, int lda, const void* b,
                         cudaDataType, int ldb, const void* beta, void* c, cudaDataType, int ldc,
                         cublasComputeType_t, cublasGemmAlgo_t);
  decltype(&cublasGetStatusString) status_string;
};

// Null where it cannot be loaded. Looked for under the version that this program was compiled for,
// where the loader looks, then beside the toolkit. Thread-safe.
const CublasLibrary* FindCublas();

}  // namespace lift::cuda
