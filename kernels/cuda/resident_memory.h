// Which memory of the device is whose: buffers, and device copies of weights that live on the host.
// Included by .cu files only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "kernels/backend.h"
#include "kernels/base/status.h"

namespace lift::cuda {

// Not thread-safe.
class ResidentMemory {
 public:
  ResidentMemory() = default;
  ~ResidentMemory();
  ResidentMemory(const ResidentMemory&) = delete;
  ResidentMemory& operator=(const ResidentMemory&) = delete;

  // RESOURCE_EXHAUSTED, with what the device has left.
  absl::StatusOr<void*> Allocate(size_t bytes, MemoryKind kind);
  // Of Allocate. The caller has waited for whatever uses it.
  void Free(void* device);

  // Free, once FreeRetired is called: when the device is idle.
  void Retire(void* device) { retired_.push_back(device); }
  bool retired() const { return !retired_.empty(); }
  void FreeRetired();

  // Sets memory aside for a device copy of these host bytes; null if a copy is there already. The
  // caller fills it. A copy of another length from the same address is dropped; the device is idle
  // then.
  absl::StatusOr<void*> Adopt(std::span<const std::byte> host);
  // Drops the copies whose host bytes begin inside `host`.
  void Abandon(std::span<const std::byte> host);

  // Where the device finds what `p` points to: p itself inside a buffer, the copy's place for
  // adopted host memory, else null.
  const void* Find(const void* p) const;

  // Bytes allocated of a kind.
  uint64_t bytes(MemoryKind kind) const { return bytes_[static_cast<size_t>(kind)]; }

 private:
  struct Region {
    size_t bytes = 0;
    std::byte* device = nullptr;
    MemoryKind kind = MemoryKind::kWeights;
  };
  std::map<uintptr_t, Region> regions_;  // by first address, on the device or on the host
  std::vector<void*> retired_;
  uint64_t bytes_[3] = {};
};

}  // namespace lift::cuda
