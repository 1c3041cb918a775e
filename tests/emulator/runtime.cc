#include <cuda_runtime.h>

#include <map>
#include <mutex>

namespace simt {
namespace {
struct Allocations {
  std::mutex mutex;
  std::map<void*, size_t> bytes;
};
Allocations& All() {
  static Allocations all;
  return all;
}
}  // namespace

Memory& DeviceMemory() {
  static Memory memory;
  return memory;
}

std::atomic<uint64_t>& GraphsLaunched() {
  static std::atomic<uint64_t> launched = 0;
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
  const std::scoped_lock lock(All().mutex);
  All().bytes[p] = bytes;
  return p;
}

void Release(void* p) {
  const std::scoped_lock lock(All().mutex);
  const auto at = All().bytes.find(p);
  if (at == All().bytes.end()) return;
  DeviceMemory().used -= at->second;
  All().bytes.erase(at);
  std::free(p);
}

}  // namespace simt
