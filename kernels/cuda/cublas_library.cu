#include "kernels/cuda/cublas_library.h"

#if defined(__CUDACC__)
#include <cuda_runtime.h>
#include <dlfcn.h>

#include <string>
#endif

namespace lift::cuda {

#if defined(__CUDACC__)

namespace {

#define LIFT_STRING_(x) #x
#define LIFT_STRING(x) LIFT_STRING_(x)

template <typename F>
bool Load(void* library, const char* name, F& function) {
  function = reinterpret_cast<F>(dlsym(library, name));
  return function != nullptr;
}

CublasLibrary* LoadCublas() {
  const std::string file = "libcublas.so." + std::to_string(CUDART_VERSION / 1000);
  void* library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
#if defined(LIFT_CUDA_LIBRARY_DIR)
  if (library == nullptr)
    library = dlopen((LIFT_CUDA_LIBRARY_DIR "/" + file).c_str(), RTLD_NOW | RTLD_LOCAL);
#endif
  if (library == nullptr) return nullptr;
  static CublasLibrary calls;
  // The names that the header's macros stand for.
  const bool whole = Load(library, LIFT_STRING(cublasCreate), calls.create) &&
                     Load(library, LIFT_STRING(cublasDestroy), calls.destroy) &&
                     Load(library, LIFT_STRING(cublasSetStream), calls.set_stream) &&
                     Load(library, LIFT_STRING(cublasSetWorkspace), calls.set_workspace) &&
                     Load(library, LIFT_STRING(cublasGemmEx), calls.gemm) &&
                     Load(library, LIFT_STRING(cublasGetStatusString), calls.status_string);
  return whole ? &calls : nullptr;
}

}  // namespace

#else

namespace {

CublasLibrary* LoadCublas() {
  static CublasLibrary calls = {cublasCreate,       cublasDestroy, cublasSetStream,
                                cublasSetWorkspace, cublasGemmEx,  cublasGetStatusString};
  return &calls;
}

}  // namespace

#endif

const CublasLibrary* FindCublas() {
  static const CublasLibrary* library = LoadCublas();
  return library;
}

}  // namespace lift::cuda
