# Of kernels/cuda, relative to the project.
set(LIFT_CUDA_SOURCES attention.cu command_queue.cu cublas_library.cu cuda_backend.cu cuda_expert_ops.cu cuda_lifted_ops.cu cuda_prefill_ops.cu cuda_state_ops.cu dense.cu
    experts.cu kv_cells.cu lift.cu lifted_rows.cu prefill.cu recurrent.cu resident_memory.cu sign_gemm.cu vector_ops.cu)
list(TRANSFORM LIFT_CUDA_SOURCES PREPEND ${CMAKE_SOURCE_DIR}/kernels/cuda/)
