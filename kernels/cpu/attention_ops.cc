// Attention over the paged cache: work items of a few query rows and one key/value head.
#include <algorithm>

#include "kernels/base/check.h"
#include "kernels/cpu/cpu_backend_impl.h"

namespace lift::cpu {
namespace {

constexpr int64_t kQueryRows = 48;  // query rows (tokens x heads of a group) of one item

void CheckShape(const AttentionShape& shape) {
  LIFT_CHECK(shape.heads > 0 && shape.kv_heads > 0 && shape.heads % shape.kv_heads == 0);
  LIFT_CHECK(shape.head_dim > 0 && shape.block_tokens > 0);
}

int64_t RoundUp(int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }

int64_t BlocksOf(const AttentionSequence& s, const AttentionShape& shape) {
  return (s.position + s.tokens + shape.block_tokens - 1) / shape.block_tokens;
}

}  // namespace

int64_t AttendPartialFloats(const AttentionShape& shape, int64_t rows) {
  const int64_t all = rows * (shape.heads / shape.kv_heads);
  return all * RoundUp(shape.head_dim) + 2 * RoundUp(all);
}

int64_t AttendScratchFloats(const AttentionShape& shape, int64_t rows) {
  const int64_t all = rows * (shape.heads / shape.kv_heads);
  return kKeyChunk * (shape.head_dim + RoundUp(shape.head_dim) + 2) +
         all * (kKeyChunk + shape.head_dim) + 2 * AttendPartialFloats(shape, rows);
}

void CpuBackend::WriteKv(std::byte* cache, const AttentionShape& shape,
                         std::span<const AttentionSequence> sequences, const float* k,
                         const float* v) {
  CheckShape(shape);
  const int64_t dim = shape.head_dim, heads = shape.kv_heads, block_tokens = shape.block_tokens;
  const int64_t cells = 2 * heads * block_tokens * dim;  // of a block
  const int64_t scales = shape.format == KvFormat::kInt8 ? 4 : 0;
  const int64_t cell_bytes = (KvHeadBytes(shape.format, dim) - scales) / dim;
  ReserveScratch(sizeof(float) * static_cast<size_t>(RoundUp(dim)));
  for (const AttentionSequence& s : sequences) {
    LIFT_CHECK(BlocksOf(s, shape) <= static_cast<int64_t>(s.blocks.size()));
    For(s.tokens, 4 * heads * dim, [&](int64_t begin, int64_t end, int thread) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t slot = (s.position + i) % block_tokens;
        std::byte* block =
            cache +
            shape.block_bytes() * s.blocks[static_cast<size_t>((s.position + i) / block_tokens)];
        float* scale = reinterpret_cast<float*>(block + cells * cell_bytes);
        for (int64_t h = 0; h < heads; ++h) {
          const int64_t from = ((s.first_row + i) * heads + h) * dim;
          const int64_t key = h * block_tokens * dim + slot;
          const int64_t value = (heads + h) * block_tokens * dim + slot * dim;
          k_.store_kv({k + from, dim, shape.format, block + key * cell_bytes, block_tokens,
                       scale + h * block_tokens + slot, Scratch<float>(thread)});
          k_.store_kv({v + from, dim, shape.format, block + value * cell_bytes, 1,
                       scale + (heads + h) * block_tokens + slot, Scratch<float>(thread)});
        }
      }
    });
  }
}

// Fills attend_items_ with one item for each few rows and head.
void CpuBackend::PlanAttention(const std::byte* cache, const AttentionShape& shape,
                               std::span<const AttentionSequence> sequences, const float* q,
                               float* out, int64_t block_rows) {
  attend_items_.clear();
  for (const AttentionSequence& s : sequences) {
    LIFT_CHECK(BlocksOf(s, shape) <= static_cast<int64_t>(s.blocks.size()));
    // The last rows see most keys: they start first.
    for (int64_t end = s.tokens; end > 0; end -= std::min(end, block_rows)) {
      for (int64_t head = 0; head < shape.kv_heads; ++head) {
        AttendItem& item = attend_items_.emplace_back();
        item.cache = cache, item.shape = &shape, item.sequence = &s, item.kv_head = head;
        item.row_begin = std::max<int64_t>(0, end - block_rows), item.row_end = end;
        item.q = q, item.out = out;
      }
    }
  }
}

// Where there are few items for the threads, each span of keys becomes one of attend_spans_.
void CpuBackend::SplitSpans(const AttentionShape& shape) {
  constexpr size_t kItemsPerThread = 8;
  attend_spans_.clear();
  if (pool_.threads() == 1 ||
      attend_items_.size() >= kItemsPerThread * static_cast<size_t>(pool_.threads())) {
    return;
  }
  int64_t floats = 0;
  const auto sums = [&](const AttendItem& item) {
    return AttendPartialFloats(shape, item.row_end - item.row_begin);
  };
  for (const AttendItem& item : attend_items_) {
    floats += (item.end_span() - item.first_span()) * sums(item);
  }
  attend_partials_.Reserve(static_cast<size_t>(floats));
  float* partials = attend_partials_.data();
  for (AttendItem& item : attend_items_) {
    if (item.end_span() - item.first_span() < 2) continue;
    item.partials = partials;
    for (int64_t span = item.first_span(); span < item.end_span(); ++span) {
      AttendItem& part = attend_spans_.emplace_back(item);
      part.span = span;
      part.partials = partials;
      partials += sums(item);
    }
  }
}

void CpuBackend::Attention(const std::byte* cache, const AttentionShape& shape,
                           std::span<const AttentionSequence> sequences, const float* q,
                           float* out) {
  CheckShape(shape);
  const int64_t block_rows = std::max<int64_t>(1, kQueryRows / (shape.heads / shape.kv_heads));
  PlanAttention(cache, shape, sequences, q, out, block_rows);
  SplitSpans(shape);
  ReserveScratch(sizeof(float) * static_cast<size_t>(AttendScratchFloats(shape, block_rows)));
  const auto run = [&](std::vector<AttendItem>& items, const auto& body) {
    pool_.ParallelFor(static_cast<int64_t>(items.size()), 1,
                      [&](int64_t begin, int64_t end, int thread) {
                        for (int64_t i = begin; i < end; ++i) {
                          AttendItem& item = items[static_cast<size_t>(i)];
                          item.scratch = Scratch<float>(thread);
                          body(item);
                        }
                      });
  };
  if (!attend_spans_.empty()) run(attend_spans_, [&](const AttendItem& a) { k_.attend(a); });
  run(attend_items_,
      [&](const AttendItem& a) { (a.partials != nullptr ? k_.attend_merge : k_.attend)(a); });
}

}  // namespace lift::cpu
