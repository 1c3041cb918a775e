// Attention over the paged cache: work items of a few query rows and one key/value head.
#include <algorithm>
#include <cstring>

#include "kernels/base/check.h"
#include "kernels/cpu/cpu_backend_impl.h"

namespace lift::cpu {
namespace {

constexpr int64_t kQueryRows = 48;  // query rows (tokens x heads of a group) of one item

void CheckShape(const AttentionShape& shape) {
  LIFT_CHECK(shape.heads > 0 && shape.kv_heads > 0 && shape.heads % shape.kv_heads == 0);
  LIFT_CHECK(shape.head_dim > 0 && shape.block_tokens > 0);
}

}  // namespace

int64_t AttendScratchFloats(const AttentionShape& shape, int64_t rows) {
  const int64_t padded_dim = (shape.head_dim + kLanes - 1) / kLanes * kLanes;
  const int64_t all = rows * (shape.heads / shape.kv_heads);
  return kKeyChunk * (shape.head_dim + padded_dim) +
         all * (kKeyChunk + padded_dim + shape.head_dim) + 2 * (all + kLanes);
}

void CpuBackend::WriteKv(float* cache, const AttentionShape& shape,
                         std::span<const AttentionSequence> sequences, const float* k,
                         const float* v) {
  CheckShape(shape);
  const int64_t dim = shape.head_dim, heads = shape.kv_heads;
  const int64_t half = heads * shape.block_tokens * dim;
  for (const AttentionSequence& s : sequences) {
    for (int64_t i = 0; i < s.tokens; ++i) {
      const int64_t position = s.position + i, index = position / shape.block_tokens;
      LIFT_CHECK(index < static_cast<int64_t>(s.blocks.size()));
      float* to = cache + 2 * half * s.blocks[static_cast<size_t>(index)] +
                  position % shape.block_tokens * dim;
      const int64_t from = (s.first_row + i) * heads * dim;
      for (int64_t h = 0; h < heads; ++h, to += shape.block_tokens * dim) {
        std::memcpy(to, k + from + h * dim, sizeof(float) * static_cast<size_t>(dim));
        std::memcpy(to + half, v + from + h * dim, sizeof(float) * static_cast<size_t>(dim));
      }
    }
  }
}

void CpuBackend::Attention(const float* cache, const AttentionShape& shape,
                           std::span<const AttentionSequence> sequences, const float* q,
                           float* out) {
  CheckShape(shape);
  const int64_t group = shape.heads / shape.kv_heads;
  const int64_t block_rows = std::max<int64_t>(1, kQueryRows / group);
  attend_items_.clear();
  for (const AttentionSequence& s : sequences) {
    LIFT_CHECK((s.position + s.tokens + shape.block_tokens - 1) / shape.block_tokens <=
               static_cast<int64_t>(s.blocks.size()));
    // The last rows see most keys: they start first.
    for (int64_t end = s.tokens; end > 0; end -= std::min(end, block_rows)) {
      for (int64_t head = 0; head < shape.kv_heads; ++head) {
        attend_items_.push_back({cache, &shape, &s, head, std::max<int64_t>(0, end - block_rows),
                                 end, q, out, nullptr});
      }
    }
  }
  ReserveScratch(sizeof(float) * static_cast<size_t>(AttendScratchFloats(shape, block_rows)));
  const auto body = [&](int64_t begin, int64_t end, int thread) {
    for (int64_t i = begin; i < end; ++i) {
      AttendItem item = attend_items_[static_cast<size_t>(i)];
      item.scratch = Scratch<float>(thread);
      k_.attend(item);
    }
  };
  pool_.ParallelFor(static_cast<int64_t>(attend_items_.size()), 1, body);
}

}  // namespace lift::cpu
