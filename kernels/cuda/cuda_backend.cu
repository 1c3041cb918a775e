#include <algorithm>
#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "kernels/cuda/cuda_backend_impl.h"
#include "kernels/cuda/dense.h"
#include "kernels/cuda/vector_ops.h"

namespace lift {
namespace cuda {
namespace {

class CudaBuffer final : public Buffer {
 public:
  CudaBuffer(std::shared_ptr<Device> device, void* data, size_t size)
      : device_(std::move(device)), data_(data), size_(size) {}
  ~CudaBuffer() override {
    device_->queue.Synchronize();
    device_->memory.Free(data_);
  }
  void* data() override { return data_; }
  size_t size() const override { return size_; }

 private:
  std::shared_ptr<Device> device_;
  void* data_;
  size_t size_;
};

}  // namespace

Scratch::~Scratch() {
  if (data_ == nullptr) return;
  queue_->Synchronize();
  memory_->Free(data_);
}

// Commands that are queued may still name the old memory, and what an op has staged so far belongs
// to the batch at hand: so nothing is sent off here, and the old memory goes later.
void* Scratch::Reserve(size_t bytes) {
  if (bytes <= bytes_) return data_;
  if (data_ != nullptr) memory_->Retire(data_);
  bytes_ = std::max(bytes, bytes_ + bytes_ / 2);
  auto data = memory_->Allocate(bytes_, MemoryKind::kWorkspace);
  if (!data.ok()) std::fprintf(stderr, "CUDA: %s\n", std::string(data.status().message()).c_str());
  LIFT_CHECK(data.ok());
  data_ = *data;
  return data_;
}

CudaExpertLayer::CudaExpertLayer(std::shared_ptr<Device> of)
    : device(std::move(of)),
      memory{{device->memory, device->queue},
             {device->memory, device->queue},
             {device->memory, device->queue},
             {device->memory, device->queue}} {}

CudaBackend::CudaBackend(std::shared_ptr<Device> device)
    : device_(std::move(device)),
      rows_scratch_(device_->memory, device_->queue),
      attention_scratch_(device_->memory, device_->queue) {
  for (int i = 0; i < kExpertMemories; ++i)
    expert_memory_.emplace_back(device_->memory, device_->queue);
}

CudaBackend::~CudaBackend() { device_->queue.Synchronize(); }

std::string CudaBackend::description() const { return device_->name; }

absl::StatusOr<std::unique_ptr<Buffer>> CudaBackend::Allocate(size_t bytes, MemoryKind kind) {
  LIFT_ASSIGN_OR_RETURN(void* data, device_->memory.Allocate(bytes, kind));
  return std::make_unique<CudaBuffer>(device_, data, bytes);
}

absl::Status CudaBackend::Adopt(std::span<const std::byte> host) {
  device_->queue.Synchronize();
  ++expert_generation_;  // tables of experts point to weights
  LIFT_ASSIGN_OR_RETURN(void* device, device_->memory.Adopt(host));
  if (device != nullptr) device_->queue.Upload(host.data(), host.size(), device);
  return absl::OkStatus();
}

void CudaBackend::Abandon(std::span<const std::byte> host) {
  device_->queue.Synchronize();
  ++expert_generation_;
  device_->memory.Abandon(host);
}

void CudaBackend::Upload(const void* host, size_t bytes, void* buffer) {
  const void* device = device_->memory.Find(buffer);
  LIFT_CHECK(device != nullptr);
  device_->queue.UploadLater(host, bytes, const_cast<void*>(device));
}

void CudaBackend::Download(const void* buffer, size_t bytes, void* host) {
  const void* device = device_->memory.Find(buffer);
  LIFT_CHECK(device != nullptr);
  device_->queue.Download(device, bytes, host);
}

uint64_t CudaBackend::allocated_bytes(MemoryKind kind) const {
  const uint64_t staging = kind == MemoryKind::kWorkspace ? device_->queue.staging_bytes() : 0;
  return device_->memory.bytes(kind) + staging;
}

Backend::MemoryProbe CudaBackend::memory_probe() const {
  return [] {
    size_t free_bytes = 0, total = 0;
    if (cudaMemGetInfo(&free_bytes, &total) != cudaSuccess) return DeviceMemory{};
    return DeviceMemory{total - free_bytes, total};
  };
}

void CudaBackend::Finish() {
  if (device_->memory.retired() && device_->queue.idle()) device_->memory.FreeRetired();
  for (const PendingDownload& d : pending_)
    device_->queue.DownloadRows(d.from, d.width, d.pitch, d.rows, d.to);
  pending_.clear();
}

float* CudaBackend::OutRows(float* p, int64_t rows, int64_t width, int64_t pitch) {
  if (const void* found = device_->memory.Find(p))
    return const_cast<float*>(static_cast<const float*>(found));
  const auto bytes = [](int64_t floats) { return static_cast<size_t>(floats) * sizeof(float); };
  void* staged = device_->queue.Stage(p, 0, bytes((rows - 1) * pitch + width));
  pending_.push_back({staged, p, bytes(width), bytes(pitch), static_cast<size_t>(rows)});
  return static_cast<float*>(staged);
}

void CudaBackend::RmsNorm(const float* x, const float* gain, float eps, int64_t tokens, int64_t dim,
                          float* out) {
  LIFT_CHECK(tokens >= 0 && dim > 0);
  QueueRmsNorm(device_->queue, In(x, tokens * dim), In(gain, dim), eps, tokens, dim,
               Out(out, tokens * dim));
  Finish();
}

void CudaBackend::LayerNorm(const float* x, const float* gain, const float* bias, float eps,
                            int64_t tokens, int64_t dim, float* out) {
  LIFT_CHECK(tokens >= 0 && dim > 0);
  QueueLayerNorm(device_->queue, In(x, tokens * dim), In(gain, dim), In(bias, dim), eps, tokens,
                 dim, Out(out, tokens * dim));
  Finish();
}

void CudaBackend::Add(float* x, const float* y, int64_t n) {
  float* to = InOut(x, n);
  QueueElementwise(device_->queue, Elementwise::kAdd, to, In(y, n), n, n, 1, to);
  Finish();
}

void CudaBackend::Multiply(float* x, const float* y, int64_t n) {
  float* to = InOut(x, n);
  QueueElementwise(device_->queue, Elementwise::kMultiply, to, In(y, n), n, n, 1, to);
  Finish();
}

void CudaBackend::Scale(float* x, float factor, int64_t n) {
  float* to = InOut(x, n);
  QueueElementwise(device_->queue, Elementwise::kScale, to, nullptr, n, n, factor, to);
  Finish();
}

void CudaBackend::Clear(float* x, int64_t n) {
  device_->queue.Fill(Out(x, n), 0, static_cast<size_t>(n) * sizeof(float));
  Finish();
}

void CudaBackend::AddBias(float* y, const float* bias, int64_t tokens, int64_t dim) {
  float* to = InOut(y, tokens * dim);
  QueueElementwise(device_->queue, Elementwise::kAdd, to, In(bias, dim), tokens * dim, dim, 1, to);
  Finish();
}

void CudaBackend::SwiGlu(const float* gate, const float* up, int64_t n, float* out) {
  QueueElementwise(device_->queue, Elementwise::kSwiGlu, In(gate, n), In(up, n), n, n, 1,
                   Out(out, n));
  Finish();
}

void CudaBackend::Gelu(float* x, int64_t n, bool tanh_form) {
  float* to = InOut(x, n);
  QueueElementwise(device_->queue, tanh_form ? Elementwise::kGeluTanh : Elementwise::kGelu, to,
                   nullptr, n, n, 1, to);
  Finish();
}

void CudaBackend::GatherRows(const float* x, std::span<const int32_t> rows, int64_t dim,
                             float* out) {
  const auto count = static_cast<int64_t>(rows.size());
  const int32_t last = rows.empty() ? 0 : *std::max_element(rows.begin(), rows.end());
  QueueGatherRows(device_->queue, In(x, (last + 1) * dim), device_->queue.StageAll(rows), count,
                  dim, Out(out, count * dim));
  Finish();
}

void CudaBackend::AddWeightedRows(float* x, std::span<const int32_t> rows,
                                  std::span<const float> weights, const float* y, int64_t dim) {
  LIFT_CHECK(rows.size() == weights.size());
  const auto count = static_cast<int64_t>(rows.size());
  const int32_t last = rows.empty() ? 0 : *std::max_element(rows.begin(), rows.end());
  QueueAddWeightedRows(device_->queue, InOut(x, (last + 1) * dim), device_->queue.StageAll(rows),
                       device_->queue.StageAll(weights), count, In(y, count * dim), dim);
  Finish();
}

void CudaBackend::Rope(float* x, int64_t tokens, int64_t heads, int64_t head_dim,
                       int64_t rotary_dim, const float* cos_sin, bool interleaved) {
  LIFT_CHECK(rotary_dim % 2 == 0 && rotary_dim <= head_dim);
  QueueRope(device_->queue, InOut(x, tokens * heads * head_dim), tokens, heads, head_dim,
            rotary_dim, In(cos_sin, tokens * rotary_dim), interleaved);
  Finish();
}

void CudaBackend::CopyColumns(const float* x, int64_t tokens, int64_t pitch, int64_t cols,
                              float* out) {
  LIFT_CHECK(cols <= pitch);
  if (tokens == 0) return;
  QueueCopyColumns(device_->queue, In(x, (tokens - 1) * pitch + cols), tokens, pitch, cols,
                   Out(out, tokens * cols));
  Finish();
}

void CudaBackend::DenseMatmul(const DenseMatrixView& w, const float* x, int64_t tokens, float* y) {
  LIFT_CHECK(w.rows > 0 && w.cols > 0 && tokens >= 0 && w.data != nullptr);
  DenseMatrixView view = w;
  view.data = In(w.data, static_cast<int64_t>(w.bytes()));
  QueueDenseMatmul(device_->queue, view, In(x, tokens * w.cols), tokens, Out(y, tokens * w.rows));
  Finish();
}

void CudaBackend::DenseRow(const DenseMatrixView& w, int64_t row, float* out) {
  const EmbeddingRow only{nullptr, &w, row, 0};
  EmbeddingRows({&only, 1}, w.cols, out);
}

}  // namespace cuda

absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend() {
  int count = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess || count == 0) {
    return absl::UnavailableError(
        absl::StrCat("no usable CUDA device: ",
                     error != cudaSuccess ? cudaGetErrorString(error) : "the driver lists none"));
  }
  cudaDeviceProp properties{};
  if (const cudaError_t error = cudaGetDeviceProperties(&properties, 0); error != cudaSuccess) {
    return absl::UnavailableError(
        absl::StrCat("the CUDA device does not answer: ", cudaGetErrorString(error)));
  }
  if (properties.major < 8) {
    return absl::UnavailableError(
        absl::StrCat(properties.name, " is older than compute capability 8.0"));
  }
  auto device = std::make_shared<cuda::Device>();
  device->name = absl::StrCat(properties.name, ", compute capability ", properties.major, ".",
                              properties.minor);
  constexpr size_t kStaticShared = 2 << 10;  // of kernels that also ask for dynamic
  device->shared_limit = properties.sharedMemPerBlockOptin - kStaticShared;
  return std::make_unique<cuda::CudaBackend>(std::move(device));
}

}  // namespace lift
