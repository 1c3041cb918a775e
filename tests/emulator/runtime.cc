#include <cuda_runtime.h>

#include <map>

namespace simt {
namespace {
std::map<void*, size_t>& Sizes() {
  static std::map<void*, size_t> sizes;
  return sizes;
}
}  // namespace

Memory& DeviceMemory() {
  static Memory memory;
  return memory;
}

uint64_t& GraphsLaunched() {
  static uint64_t launched = 0;
  return launched;
}

// A size that is no multiple of the alignment goes to posix_memalign, so that a sanitizer sees the
// true end.
void* Allocate(size_t bytes) {
  Memory& memory = DeviceMemory();
  if (bytes > memory.total - memory.used) return nullptr;
  void* p = nullptr;
  if (posix_memalign(&p, 256, bytes == 0 ? 1 : bytes) != 0) return nullptr;
  std::memset(p, 0xFF, bytes);
  memory.used += bytes;
  Sizes()[p] = bytes;
  return p;
}

void Release(void* p) {
  const auto at = Sizes().find(p);
  if (at == Sizes().end()) return;
  DeviceMemory().used -= at->second;
  Sizes().erase(at);
  std::free(p);
}

}  // namespace simt
