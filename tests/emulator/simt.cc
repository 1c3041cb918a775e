#include "tests/emulator/simt.h"

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#define SIMT_ASAN 1
#else
#define SIMT_ASAN 0
#endif

namespace simt {
namespace {

constexpr size_t kStackBytes = size_t{1} << 17;
constexpr size_t kMaxThreads = 1024;

enum class State { kReady, kAtBlock, kAtWarp, kDone };

struct Fiber {
  Thread thread;
  State state = State::kReady;
  size_t warp = 0;
  unsigned exchanges = 0;
  jmp_buf at;
  ucontext_t start;
  bool started = false;
  std::unique_ptr<char[]> stack;
  void* fake_stack = nullptr;
};

// The block in progress. Each thread of the host has one, since its blocks run one after the other.
struct Block {
  std::vector<Fiber> fibers;
  std::vector<size_t> order;
  size_t threads = 0;
  jmp_buf scheduler;
  void* scheduler_fake_stack = nullptr;
  const void* scheduler_stack = nullptr;
  size_t scheduler_stack_bytes = 0;
  Fiber* running = nullptr;
  const std::function<void()>* body = nullptr;
  const char* kernel = "";
  std::vector<std::byte> shared;
  // [warp][parity]: two, so that a lane may publish anew while another still reads.
  std::vector<std::array<Published, 2>> published;
};

Block& TheBlock() {
  static thread_local Block block;
  return block;
}

std::atomic<Order> g_order = Order::kAscending;
std::atomic<uint64_t> g_threads_run = 0;

void StartSwitch(void** fake, const void* stack, size_t bytes) {
#if SIMT_ASAN
  __sanitizer_start_switch_fiber(fake, stack, bytes);
#else
  (void)fake, (void)stack, (void)bytes;
#endif
}
void FinishSwitch(void* fake, const void** stack, size_t* bytes) {
#if SIMT_ASAN
  __sanitizer_finish_switch_fiber(fake, stack, bytes);
#else
  (void)fake, (void)stack, (void)bytes;
#endif
}

// Leaves the running fiber for the scheduler; returns when it is resumed.
void Leave(bool for_good) {
  Block& b = TheBlock();
  Fiber* self = b.running;
  StartSwitch(for_good ? nullptr : &self->fake_stack, b.scheduler_stack, b.scheduler_stack_bytes);
  if (_setjmp(self->at) == 0) _longjmp(b.scheduler, 1);
  FinishSwitch(self->fake_stack, nullptr, nullptr);
}

void Main() {
  Block& b = TheBlock();
  FinishSwitch(nullptr, &b.scheduler_stack, &b.scheduler_stack_bytes);
  (*b.body)();
  b.running->state = State::kDone;
  Leave(true);
}

void Resume(Fiber& fiber) {
  Block& b = TheBlock();
  b.running = &fiber;
  StartSwitch(&b.scheduler_fake_stack, fiber.stack.get(), kStackBytes);
  if (_setjmp(b.scheduler) == 0) {
    if (fiber.started) _longjmp(fiber.at, 1);
    fiber.started = true;
    setcontext(&fiber.start);
  }
  FinishSwitch(b.scheduler_fake_stack, nullptr, nullptr);
}

// Sets the fibers of [first, last) that wait in `state` going if all that are not done do.
bool Release(size_t first, size_t last, State state) {
  Block& b = TheBlock();
  size_t waiting = 0;
  for (size_t i = first; i < last; ++i) {
    const State s = b.fibers[i].state;
    if (s == State::kDone) continue;
    if (s != state) return false;
    ++waiting;
  }
  for (size_t i = first; i < last; ++i) {
    if (b.fibers[i].state == state) b.fibers[i].state = State::kReady;
  }
  return waiting > 0;
}

[[noreturn]] void Stuck() {
  Block& b = TheBlock();
  size_t at_block = 0, at_warp = 0;
  for (size_t i = 0; i < b.threads; ++i) {
    at_block += b.fibers[i].state == State::kAtBlock;
    at_warp += b.fibers[i].state == State::kAtWarp;
  }
  std::fprintf(stderr,
               "%s: %zu threads wait at a block's barrier and %zu at a warp's; the others never "
               "reach it\n",
               b.kernel, at_block, at_warp);
  std::abort();
}

void SortFibers(std::mt19937& random) {
  Block& b = TheBlock();
  b.order.resize(b.threads);
  for (size_t i = 0; i < b.threads; ++i) b.order[i] = i;
  if (g_order == Order::kDescending) std::reverse(b.order.begin(), b.order.end());
  if (g_order == Order::kShuffled) std::shuffle(b.order.begin(), b.order.end(), random);
}

void RunBlock(std::mt19937& random) {
  Block& b = TheBlock();
  const size_t warps = (b.threads + kWarp - 1) / kWarp;
  SortFibers(random);
  for (size_t done = 0; done < b.threads;) {
    bool ran = false;
    for (const size_t i : b.order) {
      Fiber& fiber = b.fibers[i];
      if (fiber.state != State::kReady) continue;
      ran = true;
      Resume(fiber);
      done += fiber.state == State::kDone;
    }
    for (size_t w = 0; w < warps; ++w)
      ran |= Release(w * kWarp, std::min((w + 1) * kWarp, b.threads), State::kAtWarp);
    ran |= Release(0, b.threads, State::kAtBlock);
    if (!ran && done < b.threads) Stuck();
    if (g_order == Order::kShuffled) SortFibers(random);
  }
}

void Prepare(size_t threads, Dim block, Dim grid, Dim at) {
  Block& b = TheBlock();
  b.threads = threads;
  if (b.fibers.size() < threads) b.fibers.resize(threads);
  b.published.resize((threads + kWarp - 1) / kWarp);
  for (size_t i = 0; i < threads; ++i) {
    Fiber& f = b.fibers[i];
    const auto n = static_cast<unsigned>(i);
    f.thread = {{n % block.x, n / block.x % block.y, n / block.x / block.y},
                at,
                block,
                grid,
                static_cast<int>(n % kWarp)};
    f.state = State::kReady;
    f.warp = i / kWarp;
    f.started = false;
    f.exchanges = 0;
    if (!f.stack) f.stack = std::make_unique<char[]>(kStackBytes);
    getcontext(&f.start);
    f.start.uc_stack.ss_sp = f.stack.get();
    f.start.uc_stack.ss_size = kStackBytes;
    f.start.uc_link = nullptr;
    makecontext(&f.start, Main, 0);
  }
}

}  // namespace

void SetOrder(Order order) { g_order = order; }
uint64_t ThreadsRun() { return g_threads_run; }
const Thread& Current() { return TheBlock().running->thread; }
void* DynamicShared() { return TheBlock().shared.data(); }

void SyncBlock() {
  TheBlock().running->state = State::kAtBlock;
  Leave(false);
}

void SyncWarp() {
  TheBlock().running->state = State::kAtWarp;
  Leave(false);
}

const Published& Exchange(const void* value, size_t bytes) {
  Block& b = TheBlock();
  Fiber& self = *b.running;
  Published& slots = b.published[self.warp][self.exchanges++ % 2];
  std::memcpy(slots[self.thread.lane], value, bytes);
  SyncWarp();
  return slots;
}

void MmaAndPopc(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  struct Fragments {
    uint32_t a[4], b[2];
  } mine;
  std::memcpy(mine.a, a, sizeof(mine.a));
  std::memcpy(mine.b, b, sizeof(mine.b));
  const Published& all = Exchange(&mine, sizeof(mine));
  const auto of = [&](int lane) { return reinterpret_cast<const Fragments*>(all[lane]); };
  const int g = Current().lane / 4, q = Current().lane % 4;
  for (int i = 0; i < 4; ++i) {
    // Register `half` and 2 + `half` of A hold row g + 8 * half, columns 32 * lane % 4 and 128
    // more.
    const int half = i / 2, column = 2 * q + i % 2;
    for (int word = 0; word < 4; ++word) {
      const Fragments *row = of(4 * g + word), *bits = of(4 * column + word);
      d[i] +=
          std::popcount(row->a[half] & bits->b[0]) + std::popcount(row->a[2 + half] & bits->b[1]);
    }
  }
}

void Run(const char* kernel, Dim grid, Dim block, size_t shared_bytes,
         const std::function<void()>& body) {
  Block& b = TheBlock();
  const size_t threads = size_t{block.x} * block.y * block.z;
  if (threads == 0 || threads > kMaxThreads || grid.x == 0 || grid.y == 0 || grid.z == 0 ||
      grid.y > 65535 || grid.z > 65535) {
    std::fprintf(stderr, "%s: a grid of %u x %u x %u blocks of %zu threads cannot be launched\n",
                 kernel, grid.x, grid.y, grid.z, threads);
    std::abort();
  }
  b.kernel = kernel;
  b.body = &body;
  std::mt19937 random(7);
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        // A fresh allocation, so that a sanitizer sees where it ends.
        b.shared = std::vector<std::byte>(shared_bytes, std::byte{0xFF});
        Prepare(threads, block, grid, {x, y, z});
        RunBlock(random);
        g_threads_run += threads;
      }
    }
  }
}

}  // namespace simt
