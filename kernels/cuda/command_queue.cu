#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "kernels/cuda/command_queue.h"

namespace lift::cuda {
namespace {

constexpr size_t kAlignment = 256;
constexpr size_t kFirstStaging = size_t{1} << 20;
constexpr size_t kMaxReplays = 64;
constexpr size_t kWorthReplaying = 4;  // commands; fewer are sent one by one

uint64_t HashOf(std::span<const std::byte> bytes) {
  uint64_t hash = 0xCBF29CE484222325u;  // FNV-1a over words; equal keys are compared in full
  size_t i = 0;
  for (; i + 8 <= bytes.size(); i += 8) {
    uint64_t word;
    std::memcpy(&word, bytes.data() + i, sizeof(word));
    hash = (hash ^ word) * 0x100000001B3u;
    hash ^= hash >> 29;
  }
  for (; i < bytes.size(); ++i)
    hash = (hash ^ std::to_integer<uint64_t>(bytes[i])) * 0x100000001B3u;
  return hash;
}

struct CopyParams {
  const void* from;
  void* to;
  size_t bytes;
};
void RunCopy(const CopyParams& p, cudaStream_t stream) {
  CheckCuda(cudaMemcpyAsync(p.to, p.from, p.bytes, cudaMemcpyDeviceToDevice, stream), "a copy");
}

struct FillParams {
  void* to;
  size_t bytes;
  uint64_t value;
};
void RunFill(const FillParams& p, cudaStream_t stream) {
  CheckCuda(cudaMemsetAsync(p.to, static_cast<int>(p.value), p.bytes, stream), "a fill");
}

}  // namespace

void CheckCuda(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "CUDA: %s failed: %s\n", what, cudaGetErrorString(error));
  std::abort();
}

CommandQueue::CommandQueue() {
  CheckCuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream");
  chunks_.push_back(MakeChunk(kFirstStaging));
}

CommandQueue::~CommandQueue() {
  cudaStreamSynchronize(stream_);
  for (const Replay& replay : replays_seen_) {
    if (replay.exec != nullptr) cudaGraphExecDestroy(replay.exec);
  }
  FreeChunks();
  cudaStreamDestroy(stream_);
}

CommandQueue::Chunk CommandQueue::MakeChunk(size_t capacity) {
  void *host = nullptr, *device = nullptr;
  CheckCuda(cudaMallocHost(&host, capacity), "allocating pinned memory");
  CheckCuda(cudaMalloc(&device, capacity), "allocating staging memory");
  return {static_cast<std::byte*>(host), static_cast<std::byte*>(device), capacity, 0};
}

void CommandQueue::FreeChunks() {
  for (const Chunk& chunk : chunks_) {
    cudaFreeHost(chunk.host);
    cudaFree(chunk.device);
  }
  chunks_.clear();
}

size_t CommandQueue::staging_bytes() const {
  size_t bytes = 0;
  for (const Chunk& chunk : chunks_) bytes += chunk.capacity;
  return bytes;
}

void CommandQueue::Append(Command command, const void* params, size_t bytes) {
  command.params_at = params_.size();
  command.params_bytes = static_cast<uint32_t>(bytes);
  const auto* from = static_cast<const std::byte*>(params);
  params_.insert(params_.end(), from, from + bytes);
  params_.resize((params_.size() + 15) / 16 * 16);
  commands_.push_back(command);
}

void CommandQueue::Copy(const void* from, size_t bytes, void* to) {
  if (bytes > 0) Call("a copy", RunCopy, CopyParams{from, to, bytes});
}

void CommandQueue::Fill(void* to, uint8_t value, size_t bytes) {
  if (bytes > 0) Call("a fill", RunFill, FillParams{to, bytes, value});
}

// The first use of staging memory since the last batch. Graphs hold its addresses and their keys
// do, too, so after a move none of the old ones matches.
void CommandQueue::BeginStaging() {
  if (in_flight_) CheckCuda(cudaStreamSynchronize(stream_), "waiting for a transfer");
  in_flight_ = false;
  if (chunks_.size() == 1) return;
  const size_t all = staging_bytes();
  CheckCuda(cudaStreamSynchronize(stream_), "waiting for a batch");
  FreeChunks();
  chunks_.push_back(MakeChunk(all));
}

void* CommandQueue::Stage(const void* host, size_t bytes, size_t room) {
  if (chunks_.front().used == 0) BeginStaging();
  const size_t wanted =
      std::max((std::max(room, bytes) + kAlignment - 1) / kAlignment * kAlignment, kAlignment);
  if (chunks_.back().capacity - chunks_.back().used < wanted)
    chunks_.push_back(MakeChunk(std::max(2 * chunks_.back().capacity, wanted)));
  Chunk& chunk = chunks_.back();
  void* device = chunk.device + chunk.used;
  if (bytes > 0) std::memcpy(chunk.host + chunk.used, host, bytes);
  chunk.used += wanted;
  return device;
}

std::vector<std::byte> CommandQueue::Key() const {
  std::vector<std::byte> key;
  const auto add = [&](const void* from, size_t bytes) {
    const auto* p = static_cast<const std::byte*>(from);
    key.insert(key.end(), p, p + bytes);
  };
  for (const Chunk& chunk : chunks_) {
    add(&chunk.host, sizeof(chunk.host));
    add(&chunk.used, sizeof(chunk.used));
  }
  for (const Command& c : commands_) {
    add(&c.kernel, sizeof(c.kernel));
    add(c.grid, sizeof(c.grid));
    add(c.block, sizeof(c.block));
    add(&c.shared, sizeof(c.shared));
  }
  add(params_.data(), params_.size());
  return key;
}

void CommandQueue::RunAll() {
  for (const Chunk& chunk : chunks_) {
    if (chunk.used == 0) continue;
    CheckCuda(
        cudaMemcpyAsync(chunk.device, chunk.host, chunk.used, cudaMemcpyHostToDevice, stream_),
        "sending a step's inputs");
  }
  for (const Command& c : commands_) c.run(c, params_.data() + c.params_at, stream_);
}

// One-off batches are sent as they are; what comes again becomes a graph.
void CommandQueue::Flush() {
  if (commands_.empty()) return;
  ++batches_;
  in_flight_ = running_ = true;
  if (commands_.size() < kWorthReplaying) {
    RunAll();
  } else {
    std::vector<std::byte> key = Key();
    const uint64_t hash = HashOf(key);
    const auto seen = std::find_if(replays_seen_.begin(), replays_seen_.end(),
                                   [&](const Replay& r) { return r.hash == hash && r.key == key; });
    if (seen == replays_seen_.end()) {
      RunAll();
      replays_seen_.push_front({hash, std::move(key), nullptr});
      if (replays_seen_.size() > kMaxReplays) {
        cudaGraphExec_t oldest = replays_seen_.back().exec;
        if (oldest != nullptr) {
          CheckCuda(cudaStreamSynchronize(stream_), "waiting for a graph");
          CheckCuda(cudaGraphExecDestroy(oldest), "dropping a graph");
        }
        replays_seen_.pop_back();
      }
    } else {
      replays_seen_.splice(replays_seen_.begin(), replays_seen_, seen);
      if (seen->exec == nullptr) {
        cudaGraph_t graph = nullptr;
        CheckCuda(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal),
                  "capturing a step");
        RunAll();
        CheckCuda(cudaStreamEndCapture(stream_, &graph), "capturing a step");
        CheckCuda(cudaGraphInstantiate(&seen->exec, graph, 0), "making a graph of a step");
        CheckCuda(cudaGraphDestroy(graph), "making a graph of a step");
      }
      ++replays_;
      CheckCuda(cudaGraphLaunch(seen->exec, stream_), "running a step");
    }
  }
  commands_.clear();
  params_.clear();
  for (Chunk& chunk : chunks_) chunk.used = 0;
}

void CommandQueue::Synchronize() {
  Flush();
  CheckCuda(cudaStreamSynchronize(stream_), "a step");
  in_flight_ = running_ = false;
}

void CommandQueue::DownloadRows(const void* device, size_t width, size_t pitch, size_t rows,
                                void* host) {
  Flush();
  running_ = true;
  if (width > 0 && rows > 0) {
    CheckCuda(
        cudaMemcpy2DAsync(host, pitch, device, pitch, width, rows, cudaMemcpyDeviceToHost, stream_),
        "reading from the device");
  }
  Synchronize();
}

void CommandQueue::UploadLater(const void* host, size_t bytes, void* device) {
  Copy(Stage(host, bytes), bytes, device);
}

void CommandQueue::Upload(const void* host, size_t bytes, void* device) {
  Flush();
  CheckCuda(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, stream_),
            "writing to the device");
  CheckCuda(cudaStreamSynchronize(stream_), "writing to the device");
}

}  // namespace lift::cuda
