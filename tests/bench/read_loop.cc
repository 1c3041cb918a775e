#include "tests/bench/read_loop.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <fstream>
#include <vector>

namespace lift::bench {

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

uint64_t ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  uint64_t pages = 0, resident = 0;
  statm >> pages >> resident;
  return resident * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
}

double ReadBandwidth(ThreadPool& pool) {
  constexpr int64_t kWords = 32 << 20, kGrain = 1 << 16;  // 256 MiB, 512 KiB at a time
  std::vector<uint64_t> words(kWords);
  pool.ParallelFor(kWords, kGrain, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) words[static_cast<size_t>(i)] = static_cast<uint64_t>(i);
  });
  std::atomic<uint64_t> sink{0};
  double best = 0;
  for (int pass = 0; pass < 6; ++pass) {
    const double start = Now();
    pool.ParallelFor(kWords, kGrain, [&](int64_t begin, int64_t end, int) {
      uint64_t sums[8] = {};
      for (int64_t i = begin; i < end; i += 8) {
        for (int j = 0; j < 8; ++j) sums[j] += words[static_cast<size_t>(i + j)];
      }
      for (const uint64_t sum : sums) sink += sum;
    });
    best = std::max(best, static_cast<double>(kWords * 8) / (Now() - start));
  }
  return sink == 1 ? 0 : best;
}

double ReadBandwidth(Backend& backend, ThreadPool& pool) {
  if (backend.host_memory()) return ReadBandwidth(pool);
  constexpr int64_t kFloats = int64_t{1} << 27;  // 512 MiB
  const size_t bytes = sizeof(float) * static_cast<size_t>(kFloats);
  auto from = backend.Allocate(bytes, MemoryKind::kWorkspace);
  auto to = backend.Allocate(bytes, MemoryKind::kWorkspace);
  if (!from.ok() || !to.ok()) return 0;
  backend.Clear((*from)->as<float>(), kFloats);
  const double seconds = MeanSeconds(0.5, [&] {
    backend.CopyColumns((*from)->as<float>(), 1, kFloats, kFloats, (*to)->as<float>());
    backend.Wait();
  });
  return 2 * static_cast<double>(bytes) / seconds;
}

}  // namespace lift::bench
