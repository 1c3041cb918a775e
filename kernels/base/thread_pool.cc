#include "kernels/base/thread_pool.h"

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "kernels/base/check.h"

namespace lift {
namespace {

inline void CpuRelax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Rounds of polling before a worker parks (some tens of microseconds: the gap between two ops of a
// step), and before a waiting caller gives its core away.
constexpr int kSpinRounds = 4000;

}  // namespace

// A loop is announced through `gate`: bits 0..14 count the workers inside it, bit 15 says it is
// open, the rest is its number. A worker enters only an open loop it has not been in, so one that
// wakes too late simply stays out; the caller closes the gate and waits until nobody is inside.
struct ThreadPool::Impl {
  static constexpr uint64_t kInside = 0x7FFF, kOpen = 0x8000, kNumber = 0x10000;

  using Body = std::function<void(int64_t, int64_t, int)>;

  std::atomic<uint64_t> gate{0};
  std::atomic<int64_t> next{0};
  int64_t count = 0, grain = 1;  // written by the caller before it opens the gate
  const Body* body = nullptr;
  std::atomic<bool> busy{false}, stop{false};
  std::atomic<int> parked{0};
  std::mutex mutex;
  std::condition_variable wake;
  std::vector<std::thread> workers;

  void TakeRanges(int thread) {
    for (;;) {
      const int64_t begin = next.fetch_add(grain, std::memory_order_relaxed);
      if (begin >= count) return;
      (*body)(begin, begin + grain < count ? begin + grain : count, thread);
    }
  }

  bool HasNews(uint64_t last) const {
    const uint64_t now = gate.load();
    return stop.load() || ((now & kOpen) != 0 && now / kNumber != last);
  }

  void AwaitNews(uint64_t last) {
    for (int i = 0; i < kSpinRounds; ++i) {
      if (HasNews(last)) return;
      CpuRelax();
    }
    std::unique_lock<std::mutex> lock(mutex);
    parked.fetch_add(1);
    wake.wait(lock, [&] { return HasNews(last); });
    parked.fetch_sub(1);
  }

  void Work(int thread) {
    uint64_t last = 0;
    for (;;) {
      AwaitNews(last);
      if (stop.load()) return;
      uint64_t now = gate.load();
      bool inside = false;
      while ((now & kOpen) != 0 && !inside) inside = gate.compare_exchange_weak(now, now + 1);
      if (!inside) continue;
      last = now / kNumber;
      TakeRanges(thread);
      gate.fetch_sub(1);
    }
  }

  void Open() {
    gate.store((gate.load() / kNumber + 1) * kNumber + kOpen);
    if (parked.load() > 0) {
      std::lock_guard<std::mutex> lock(mutex);
      wake.notify_all();
    }
  }

  void CloseAndWait() {
    gate.fetch_and(~kOpen);
    for (int i = 0; (gate.load() & kInside) != 0; ++i) {
      if (i < kSpinRounds) {
        CpuRelax();
      } else {
        std::this_thread::yield();
      }
    }
  }
};

ThreadPool::ThreadPool(int threads) : impl_(std::make_unique<Impl>()) {
  LIFT_CHECK(threads >= 1 && threads <= 4096);
  for (int i = 1; i < threads; ++i) impl_->workers.emplace_back([this, i] { impl_->Work(i); });
}

ThreadPool::~ThreadPool() {
  impl_->stop.store(true);
  {
    std::lock_guard<std::mutex> lock(impl_->mutex);
    impl_->wake.notify_all();
  }
  for (std::thread& worker : impl_->workers) worker.join();
}

int ThreadPool::threads() const { return static_cast<int>(impl_->workers.size()) + 1; }

void ThreadPool::ParallelFor(int64_t count, int64_t grain, const Impl::Body& body) {
  LIFT_CHECK(grain >= 1);
  if (count <= 0) return;
  LIFT_CHECK(!impl_->busy.exchange(true));
  impl_->count = count;
  impl_->grain = grain;
  impl_->body = &body;
  impl_->next.store(0, std::memory_order_relaxed);
  const bool share = !impl_->workers.empty() && count > grain;
  if (share) impl_->Open();
  impl_->TakeRanges(0);
  if (share) impl_->CloseAndWait();
  impl_->busy.store(false);
}

}  // namespace lift
