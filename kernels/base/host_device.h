// Marks functions that kernels may call too; nothing where no CUDA compiler is at work.
#pragma once

#if defined(__CUDACC__)
#define LIFT_HOST_DEVICE __host__ __device__
#else
#define LIFT_HOST_DEVICE
#endif
