// Device memory that tests of single kernels fill and read, on the emulator or a GPU.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <vector>

#include "kernels/cuda/command_queue.h"

namespace lift::cuda {

template <typename T>
class OnDevice {
 public:
  // `offset`: bytes from an allocation's start to the values.
  OnDevice(CommandQueue& queue, size_t count, size_t offset = 0)
      : queue_(queue), count_(count), offset_(offset) {
    CheckCuda(cudaMalloc(&data_, offset + sizeof(T) * count), "allocating");
  }
  OnDevice(CommandQueue& queue, const std::vector<T>& values, size_t offset = 0)
      : OnDevice(queue, values.size(), offset) {
    queue.Upload(values.data(), sizeof(T) * count_, get());
  }
  ~OnDevice() {
    queue_.Synchronize();
    cudaFree(data_);
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  T* get() const { return reinterpret_cast<T*>(static_cast<std::byte*>(data_) + offset_); }
  std::vector<T> Read() const {
    std::vector<T> values(count_);
    queue_.Download(get(), sizeof(T) * count_, values.data());
    return values;
  }

 private:
  CommandQueue& queue_;
  size_t count_, offset_;
  void* data_ = nullptr;
};

}  // namespace lift::cuda
