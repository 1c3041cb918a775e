// Element types of stored tensors, and how each is read into float.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "kernels/base/status.h"

namespace lift {

// Plain types and the GGUF block types read by this product (layouts: the GGML quantization
// formats).
enum class DType : uint8_t {
  kF32 = 0,
  kF16,
  kBF16,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ8_0,
  kQ2_K,
  kQ3_K,
  kQ4_K,
  kQ5_K,
  kQ6_K,
};

std::string_view DTypeName(DType type);  // "F32", "Q4_1", ...
absl::StatusOr<DType> DTypeFromName(std::string_view name);
int BlockElements(DType type);  // 1, 32 or 256
size_t BlockBytes(DType type);
// Bytes of a row of `elements`; elements must be a multiple of BlockElements (CHECK).
size_t RowBytes(DType type, int64_t elements);

// Decodes out.size() elements from `data` (whole blocks) exactly as the GGML reference does.
void Dequantize(DType type, const std::byte* data, std::span<float> out);

// A row-major matrix [rows, cols] in its stored type; borrows the bytes. A vector has rows = 1.
struct DenseMatrixView {
  DType type = DType::kF32;
  int64_t rows = 0, cols = 0;
  const std::byte* data = nullptr;
  size_t row_bytes() const { return RowBytes(type, cols); }
  size_t bytes() const { return row_bytes() * static_cast<size_t>(rows); }
  const std::byte* row(int64_t r) const { return data + row_bytes() * static_cast<size_t>(r); }
};

}  // namespace lift
