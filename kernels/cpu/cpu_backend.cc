#include "kernels/cpu/cpu_backend.h"

#include <sys/mman.h>

#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "kernels/cpu/cpu_backend_impl.h"
#include "kernels/cpu/tuning_impl.h"

namespace lift {
namespace cpu {
namespace {

// Zeroed pages straight from the system; untouched ones cost nothing.
class CpuBuffer final : public Buffer {
 public:
  CpuBuffer(void* data, size_t size, size_t mapped) : data_(data), size_(size), mapped_(mapped) {}
  ~CpuBuffer() override { munmap(data_, mapped_); }
  void* data() override { return data_; }
  size_t size() const override { return size_; }

 private:
  void* data_;
  size_t size_, mapped_;
};

}  // namespace

CpuBackend::CpuBackend(ThreadPool& pool, const Kernels& kernels, const CpuTuning& tuning)
    : pool_(pool),
      k_(kernels),
      tuning_(AllowedTuning(kernels, tuning)),
      scratch_(static_cast<size_t>(pool.threads())) {}

std::string CpuBackend::description() const {
  return absl::StrCat(k_.name, ", ", pool_.threads(),
                      pool_.threads() == 1 ? " thread" : " threads");
}

absl::StatusOr<std::unique_ptr<Buffer>> CpuBackend::Allocate(size_t bytes, MemoryKind) {
  constexpr size_t kPage = 4096, kHugePage = 2 << 20;
  if (bytes > SIZE_MAX / 2) {
    return absl::InvalidArgumentError(absl::StrCat("cannot allocate ", bytes, " bytes of memory"));
  }
  const size_t mapped = bytes == 0 ? kPage : (bytes + kPage - 1) / kPage * kPage;
  void* data = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the system has no ", bytes, " bytes of memory left: ask for less state"));
  }
  if (mapped >= kHugePage) madvise(data, mapped, MADV_HUGEPAGE);
  return std::make_unique<CpuBuffer>(data, bytes, mapped);
}

void CpuBackend::ReserveScratch(size_t bytes) {
  for (AlignedArray<std::byte>& scratch : scratch_) scratch.Reserve(bytes);
}

void CpuBackend::RmsNorm(const float* x, const float* gain, float eps, int64_t tokens, int64_t dim,
                         float* out) {
  LIFT_CHECK(tokens >= 0 && dim > 0);
  For(tokens, dim, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      k_.rms_norm_row(x + t * dim, gain, eps, dim, out + t * dim);
    }
  });
}

void CpuBackend::LayerNorm(const float* x, const float* gain, const float* bias, float eps,
                           int64_t tokens, int64_t dim, float* out) {
  LIFT_CHECK(tokens >= 0 && dim > 0);
  For(tokens, 2 * dim, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      k_.layer_norm_row(x + t * dim, gain, bias, eps, dim, out + t * dim);
    }
  });
}

void CpuBackend::Add(float* x, const float* y, int64_t n) {
  For(n, 1, [&](int64_t begin, int64_t end, int) { k_.add(x + begin, y + begin, end - begin); });
}

void CpuBackend::Multiply(float* x, const float* y, int64_t n) {
  For(n, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) x[i] *= y[i];
  });
}

void CpuBackend::Scale(float* x, float factor, int64_t n) {
  For(n, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) x[i] *= factor;
  });
}

void CpuBackend::AddBias(float* y, const float* bias, int64_t tokens, int64_t dim) {
  For(tokens, dim, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) k_.add(y + t * dim, bias, dim);
  });
}

void CpuBackend::SwiGlu(const float* gate, const float* up, int64_t n, float* out) {
  For(n, 8, [&](int64_t begin, int64_t end, int) {
    k_.swiglu(gate + begin, up + begin, end - begin, out + begin);
  });
}

void CpuBackend::Gelu(float* x, int64_t n, bool tanh_form) {
  For(n, 16, [&](int64_t begin, int64_t end, int) { k_.gelu(x + begin, end - begin, tanh_form); });
}

void CpuBackend::GatherRows(const float* x, std::span<const int32_t> rows, int64_t dim,
                            float* out) {
  for (const int32_t row : rows) {
    LIFT_CHECK(row >= 0);
    std::memcpy(out, x + row * dim, sizeof(float) * static_cast<size_t>(dim));
    out += dim;
  }
}

void CpuBackend::AddWeightedRows(float* x, std::span<const int32_t> rows,
                                 std::span<const float> weights, const float* y, int64_t dim) {
  LIFT_CHECK(rows.size() == weights.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    LIFT_CHECK(rows[i] >= 0);
    float* to = x + rows[i] * dim;
    const float* from = y + static_cast<int64_t>(i) * dim;
    const float weight = weights[i];
    for (int64_t d = 0; d < dim; ++d) to[d] += weight * from[d];
  }
}

void CpuBackend::Rope(float* x, int64_t tokens, int64_t heads, int64_t head_dim, int64_t rotary_dim,
                      const float* cos_sin, bool interleaved) {
  LIFT_CHECK(rotary_dim % 2 == 0 && rotary_dim >= 0 && rotary_dim <= head_dim);
  For(tokens, heads * head_dim, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      k_.rope_token(x + t * heads * head_dim, heads, head_dim, rotary_dim, cos_sin + t * rotary_dim,
                    interleaved);
    }
  });
}

std::unique_ptr<Backend> MakeCpuBackendOn(ThreadPool& pool, const Kernels& kernels) {
  return MakeCpuBackendOn(pool, kernels, DefaultTuning(kernels));
}

std::unique_ptr<Backend> MakeCpuBackendOn(ThreadPool& pool, const Kernels& kernels,
                                          const CpuTuning& tuning) {
  return std::make_unique<CpuBackend>(pool, kernels, tuning);
}

}  // namespace cpu

std::unique_ptr<Backend> MakeCpuBackend(ThreadPool& pool, CpuIsa isa) {
  return cpu::MakeCpuBackendOn(pool, cpu::KernelsFor(isa));
}

std::unique_ptr<Backend> MakeCpuBackend(ThreadPool& pool, CpuIsa isa, const CpuTuning& tuning) {
  return cpu::MakeCpuBackendOn(pool, cpu::KernelsFor(isa), tuning);
}

}  // namespace lift
