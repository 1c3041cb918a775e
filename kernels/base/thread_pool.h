// Persistent workers for data-parallel loops inside one step.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace lift {

// Runs loops on `threads` threads, the caller being one of them. One caller at a time (CHECK); the
// workers spin briefly after a loop and then park, so an idle pool costs nothing. With 1 thread
// everything runs in the caller.
class ThreadPool {
 public:
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const;

  // Calls body(begin, end, thread) over a partition of [0, count) into ranges of at most `grain`
  // items, taken dynamically. Results must not depend on which thread takes which range. Returns
  // when all ranges are done.
  void ParallelFor(int64_t count, int64_t grain,
                   const std::function<void(int64_t begin, int64_t end, int thread)>& body);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Cores this process may use (affinity and cgroup quota respected), at least 1.
int AvailableCores();

}  // namespace lift
