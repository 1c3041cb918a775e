#include <cuda_runtime.h>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "kernels/cuda/resident_memory.h"

namespace lift::cuda {
namespace {

uintptr_t AddressOf(const void* p) { return reinterpret_cast<uintptr_t>(p); }

}  // namespace

ResidentMemory::~ResidentMemory() {
  for (const auto& [address, region] : regions_) cudaFree(region.device);
}

absl::StatusOr<void*> ResidentMemory::Allocate(size_t bytes, MemoryKind kind) {
  void* device = nullptr;
  const size_t wanted = bytes == 0 ? 1 : bytes;
  if (cudaMalloc(&device, wanted) != cudaSuccess) {
    cudaGetLastError();  // the next call is not to report it again
    size_t free_bytes = 0, total = 0;
    cudaMemGetInfo(&free_bytes, &total);
    return absl::ResourceExhaustedError(absl::StrCat("the GPU cannot give ", bytes >> 20, " MiB; ",
                                                     free_bytes >> 20, " of its ", total >> 20,
                                                     " MiB are free"));
  }
  regions_[AddressOf(device)] = {wanted, static_cast<std::byte*>(device), kind};
  bytes_[static_cast<size_t>(kind)] += wanted;
  return device;
}

void ResidentMemory::Free(void* device) {
  const auto at = regions_.find(AddressOf(device));
  LIFT_CHECK(at != regions_.end());
  bytes_[static_cast<size_t>(at->second.kind)] -= at->second.bytes;
  cudaFree(device);
  regions_.erase(at);
}

void ResidentMemory::FreeRetired() {
  for (void* device : retired_) Free(device);
  retired_.clear();
}

absl::StatusOr<void*> ResidentMemory::Adopt(std::span<const std::byte> host) {
  if (host.empty()) return nullptr;
  const auto known = regions_.find(AddressOf(host.data()));
  if (known != regions_.end() && known->second.bytes != host.size()) Abandon(host.first(1));
  if (Find(host.data()) != nullptr) return nullptr;
  LIFT_ASSIGN_OR_RETURN(void* device, Allocate(host.size(), MemoryKind::kWeights));
  Region region = regions_.at(AddressOf(device));
  regions_.erase(AddressOf(device));
  regions_[AddressOf(host.data())] = region;
  return device;
}

void ResidentMemory::Abandon(std::span<const std::byte> host) {
  const uintptr_t first = AddressOf(host.data());
  for (auto at = regions_.lower_bound(first);
       at != regions_.end() && at->first < first + host.size();) {
    bytes_[static_cast<size_t>(at->second.kind)] -= at->second.bytes;
    cudaFree(at->second.device);
    at = regions_.erase(at);
  }
}

const void* ResidentMemory::Find(const void* p) const {
  auto at = regions_.upper_bound(AddressOf(p));
  if (at == regions_.begin()) return nullptr;
  --at;
  const size_t offset = AddressOf(p) - at->first;
  return offset < at->second.bytes ? at->second.device + offset : nullptr;
}

}  // namespace lift::cuda
