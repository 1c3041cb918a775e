// Work for one GPU, collected and then sent off together. Included by .cu files only.
//
// Ops append kernels; small inputs of a step (variants, block tables, positions) are copied into
// one staging buffer that travels to the device in a single transfer before the first kernel. When
// the batch is flushed, a list of commands equal to one that was seen before is replayed as a CUDA
// graph: no key is kept by hand, and a graph can never run with stale arguments, because all of
// them are compared.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <list>
#include <span>
#include <string>
#include <vector>

#include "kernels/base/check.h"
#include "kernels/base/status.h"

namespace lift::cuda {

// Ends the program with the driver's words: after a failed kernel nothing on the device is
// trustworthy.
void CheckCuda(cudaError_t error, const char* what);

// Not thread-safe. Owns its stream and staging memory.
class CommandQueue {
 public:
  CommandQueue();
  ~CommandQueue();
  CommandQueue(const CommandQueue&) = delete;
  CommandQueue& operator=(const CommandQueue&) = delete;

  // Appends kernel<<<grid, block, shared>>>(params). `P` has no padding that is left undefined, or
  // equal steps are not recognized as equal.
  template <typename P>
  void Launch(const char* name, void (*kernel)(P), dim3 grid, dim3 block, size_t shared,
              const P& params) {
    static_assert(std::is_trivially_copyable_v<P> && sizeof(P) <= 4096);
    Command command;
    command.run = &RunKernel<P>;
    command.kernel = reinterpret_cast<void*>(kernel);
    command.name = name;
    command.grid[0] = grid.x, command.grid[1] = grid.y, command.grid[2] = grid.z;
    command.block[0] = block.x, command.block[1] = block.y, command.block[2] = block.z;
    command.shared = static_cast<uint32_t>(shared);
    Append(command, &params, sizeof(P));
  }

  // Appends run(params, stream): library calls that a stream can capture.
  template <typename P>
  void Call(const char* name, void (*run)(const P&, cudaStream_t), const P& params) {
    static_assert(std::is_trivially_copyable_v<P>);
    Command command;
    command.run = &RunCall<P>;
    command.kernel = reinterpret_cast<void*>(run);
    command.name = name;
    Append(command, &params, sizeof(P));
  }

  // Appends a copy between two places of device memory.
  void Copy(const void* from, size_t bytes, void* to);
  // Appends filling device memory with one byte.
  void Fill(void* to, uint8_t value, size_t bytes);

  // A device copy of `bytes` bytes of host memory, valid for the commands of this batch. `room`:
  // bytes set aside, so that a table that grows keeps the others in place; the rest is undefined.
  void* Stage(const void* host, size_t bytes, size_t room = 0);
  template <typename T>
  T* StageAll(std::span<const T> values, size_t room = 0) {
    return static_cast<T*>(Stage(values.data(), values.size_bytes(), room * sizeof(T)));
  }

  // Has the device done all that was appended, as far as is known here without asking it?
  bool idle() const { return commands_.empty() && !running_; }
  // Sends off what was appended.
  void Flush();
  // Flush, and wait for the device.
  void Synchronize();
  // Waits for all that was appended, then copies.
  void Download(const void* device, size_t bytes, void* host) {
    DownloadRows(device, bytes, bytes, 1, host);
  }
  // `rows` of `width` bytes, on both sides `pitch` bytes apart.
  void DownloadRows(const void* device, size_t width, size_t pitch, size_t rows, void* host);
  // Appends a copy of host memory, which may change afterwards.
  void UploadLater(const void* host, size_t bytes, void* device);
  // Sends off what was appended, then copies; for large copies.
  void Upload(const void* host, size_t bytes, void* device);

  // Bytes of device memory that staging holds.
  size_t staging_bytes() const;
  uint64_t batches() const { return batches_; }
  uint64_t replays() const { return replays_; }

 private:
  struct Command {
    void (*run)(const Command&, const void* params, cudaStream_t stream) = nullptr;
    void* kernel = nullptr;
    const char* name = nullptr;
    uint32_t grid[3] = {}, block[3] = {};
    uint32_t shared = 0, params_bytes = 0;
    uint64_t params_at = 0;
  };
  // A batch seen before; `exec` from its second time on.
  struct Replay {
    uint64_t hash = 0;
    std::vector<std::byte> key;
    cudaGraphExec_t exec = nullptr;
  };

  template <typename P>
  static void RunKernel(const Command& c, const void* params, cudaStream_t stream) {
    const dim3 grid(c.grid[0], c.grid[1], c.grid[2]), block(c.block[0], c.block[1], c.block[2]);
    auto* kernel = reinterpret_cast<void (*)(P)>(c.kernel);
#if defined(__CUDACC__)
    constexpr uint32_t kPlainShared = 48 << 10;  // more must be asked for
    if (c.shared > kPlainShared) {
      CheckCuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     static_cast<int>(c.shared)),
                c.name);
    }
    void* arguments[] = {const_cast<void*>(params)};
    CheckCuda(cudaLaunchKernel(reinterpret_cast<const void*>(kernel), grid, block, arguments,
                               c.shared, stream),
              c.name);
#else
    P copy;
    std::memcpy(&copy, params, sizeof(P));
    CheckCuda(simt::Launch(c.name, kernel, grid, block, c.shared, copy, stream), c.name);
#endif
  }
  template <typename P>
  static void RunCall(const Command& c, const void* params, cudaStream_t stream) {
    P copy;
    std::memcpy(&copy, params, sizeof(P));
    reinterpret_cast<void (*)(const P&, cudaStream_t)>(c.kernel)(copy, stream);
  }

  // Staging memory, pinned and on the device. A step that needs more adds a chunk; before the next
  // one all become one.
  struct Chunk {
    std::byte *host = nullptr, *device = nullptr;
    size_t capacity = 0, used = 0;
  };

  void Append(Command command, const void* params, size_t bytes);
  static Chunk MakeChunk(size_t capacity);
  void FreeChunks();
  void BeginStaging();
  void RunAll();
  std::vector<std::byte> Key() const;

  cudaStream_t stream_ = nullptr;
  std::vector<Command> commands_;
  std::vector<std::byte> params_;
  std::vector<Chunk> chunks_;
  bool in_flight_ = false;          // staging memory may still be read by a transfer
  bool running_ = false;            // something was sent off and not waited for
  std::list<Replay> replays_seen_;  // the latest first
  uint64_t batches_ = 0, replays_ = 0;
};

}  // namespace lift::cuda
