// Cells of the key/value cache on the GPU, and what kernels read of a step's sequences. Included by
// .cu files only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/backend.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/device.h"

namespace lift::cuda {

inline constexpr int kMaxHeadDim = 256;

// One sequence of a step; `blocks` is device memory.
struct DeviceSequence {
  const int32_t* blocks;
  int64_t first_row, position;
};

// Some rows of one sequence.
struct SequenceTile {
  int32_t sequence, first, count, unused;
};

// Heads and sizes fit the kernels (CHECK).
void CheckAttentionShape(const AttentionShape& shape);
// The step's counts without what lies in device memory.
AttentionStep CountAttention(const AttentionShape& shape,
                             std::span<const AttentionSequence> sequences);
// 1 / sqrt of the largest power of two that divides the dimension; 0 where cells are not rotated.
float HeadNorm(const AttentionShape& shape);
// The class of AttentionStep::attend of a sequence with so many query rows.
int TileClass(int64_t query_rows);

template <KvFormat kFormat>
inline constexpr int kCellBytes = kFormat == KvFormat::kF32    ? 4
                                  : kFormat == KvFormat::kInt8 ? 1
                                                               : 2;

// A 16-bit cell, in the low half of `bits`.
template <KvFormat kFormat>
__device__ __forceinline__ float FromBits(unsigned bits) {
  if constexpr (kFormat == KvFormat::kBF16) return __uint_as_float(bits << 16);
  return __half2float(__ushort_as_half(static_cast<unsigned short>(bits & 0xFFFF)));
}

// Four cells side by side, aligned to their size.
template <KvFormat kFormat>
__device__ __forceinline__ void LoadFour(const std::byte* p, float (&x)[4]) {
  if constexpr (kFormat == KvFormat::kF32) {
    const float4 v = *reinterpret_cast<const float4*>(p);
    x[0] = v.x, x[1] = v.y, x[2] = v.z, x[3] = v.w;
  } else if constexpr (kFormat == KvFormat::kInt8) {
    // 2^23 + 128 + x has the byte x + 128 at its low end.
    const unsigned bytes = *reinterpret_cast<const unsigned*>(p) ^ 0x80808080u;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const unsigned biased = 0x4B000000u | (bytes >> 8 * i & 0xFF);
      x[i] = __fsub_rn(__uint_as_float(biased), 8388736.0f);
    }
  } else {
    const uint2 v = *reinterpret_cast<const uint2*>(p);
    x[0] = FromBits<kFormat>(v.x & 0xFFFF), x[1] = FromBits<kFormat>(v.x >> 16);
    x[2] = FromBits<kFormat>(v.y & 0xFFFF), x[3] = FromBits<kFormat>(v.y >> 16);
  }
}

template <KvFormat kFormat>
__device__ __forceinline__ float LoadCell(const std::byte* p) {
  if constexpr (kFormat == KvFormat::kF32) return *reinterpret_cast<const float*>(p);
  if constexpr (kFormat == KvFormat::kInt8)
    return static_cast<float>(*reinterpret_cast<const int8_t*>(p));
  if constexpr (kFormat == KvFormat::kF16 || kFormat == KvFormat::kBF16)
    return FromBits<kFormat>(*reinterpret_cast<const uint16_t*>(p));
}

// Scales lie behind the cells, where odd shapes leave them 2-byte aligned.
__device__ __forceinline__ float LoadScale(const std::byte* p) {
  const auto* halves = reinterpret_cast<const uint16_t*>(p);
  return __uint_as_float(halves[0] | static_cast<unsigned>(halves[1]) << 16);
}
__device__ __forceinline__ void StoreScale(std::byte* p, float scale) {
  auto* halves = reinterpret_cast<uint16_t*>(p);
  halves[0] = static_cast<uint16_t>(__float_as_uint(scale) & 0xFFFF);
  halves[1] = static_cast<uint16_t>(__float_as_uint(scale) >> 16);
}

// The rotation of int8 cells: signs, then Walsh-Hadamard butterflies over the largest power of two
// that divides the dimension. The operations and their order are those of the CPU.
__device__ __forceinline__ float SignedNorm(int i, float norm) {
  const uint64_t mixed = static_cast<uint64_t>(i + 1) * 0x9E3779B97F4A7C15u;
  return (mixed >> 40 & 1) != 0 ? -norm : norm;
}

// All rows [rows][dim], `pitch` apart in shared memory, by the whole block; ends with a barrier.
__device__ __forceinline__ void Butterflies(float* x, int rows, int pitch, int dim) {
  const int half = dim / 2;
  for (int h = 1; h < (dim & -dim); h *= 2) {
    for (int i = static_cast<int>(threadIdx.x); i < rows * half;
         i += static_cast<int>(blockDim.x)) {
      const int u = i % half;
      float* low = x + i / half * pitch + 2 * u - (u & (h - 1));
      const float a = low[0], b = low[h];
      low[0] = __fadd_rn(a, b);
      low[h] = __fsub_rn(a, b);
    }
    __syncthreads();
  }
}

inline constexpr int kAttendThreads = 256;
// Keys, one a thread, whose sums are made alone and then folded in order.
inline constexpr int kSpanKeys = kAttendThreads;

struct AttendParams {
  const std::byte* cache;
  const float* q;
  float* out;
  float* partials;  // [item][spans][rows][2 + dim]: maximum, total, sums; null: all in one block
  const DeviceSequence* sequences;
  const SequenceTile* tiles;
  int64_t block_bytes;
  int32_t heads, kv_heads, dim, block_tokens, window, spans, rows, unused;
  float scale, norm;
};

// A tile of query rows and one key/value head.
struct Item {
  DeviceSequence sequence;
  SequenceTile tile;
  int kv_head, group;
  int first_key, end_key;  // that some row sees

  __device__ __forceinline__ int position(int row) const {
    return static_cast<int>(sequence.position) + (tile.first + row) / group;
  }
  // Of row `row` in q and out.
  __device__ __forceinline__ int64_t offset(const AttendParams& p, int row) const {
    const int64_t token = sequence.first_row + (tile.first + row) / group;
    return (token * p.heads + kv_head * group + (tile.first + row) % group) * p.dim;
  }
  __device__ __forceinline__ int first_span() const { return first_key / kSpanKeys; }
  __device__ __forceinline__ int end_span() const { return (end_key - 1) / kSpanKeys + 1; }
};
__device__ __forceinline__ Item ItemOf(const AttendParams& p) {
  Item item;
  const int index = static_cast<int>(blockIdx.x);
  item.tile = p.tiles[index / p.kv_heads];
  item.sequence = p.sequences[item.tile.sequence];
  item.kv_head = index % p.kv_heads;
  item.group = p.heads / p.kv_heads;
  const int first = item.position(0);
  item.first_key = p.window == 0 || first < p.window ? 0 : first + 1 - p.window;
  item.end_key = item.position(item.tile.count - 1) + 1;
  return item;
}

template <int kRows>
struct alignas(16) AttendShared {
  Item item;
  int64_t key_at[kSpanKeys], value_at[kSpanKeys];  // bytes from the cache's start; -1: not read
  float scales[2][kSpanKeys];                      // of keys and values
  alignas(16) float scores[kRows][kSpanKeys];
  float maximum[kRows], total[kRows];          // of the span
  float all_maximum[kRows], all_total[kRows];  // of the spans so far
  float keep[kRows], add[kRows];
  int position[kRows];  // -1: no such row
};

__host__ __device__ constexpr int Pitch(int dim) { return (dim + 15) / 16 * 16; }

// q = the tile's rows, rotated as the keys are; zeros around them.
template <int kRows>
__device__ __forceinline__ void LoadQueries(const AttendParams& p, const Item& item,
                                            AttendShared<kRows>& s, float* q) {
  if (threadIdx.x == 0) s.item = item;
  const int pitch = Pitch(p.dim);
  for (int i = static_cast<int>(threadIdx.x); i < kRows * pitch; i += kAttendThreads) {
    const int row = i / pitch, d = i % pitch;
    float x = row < item.tile.count && d < p.dim ? p.q[item.offset(p, row) + d] : 0.0f;
    if (p.norm != 0) x = __fmul_rn(x, SignedNorm(d, p.norm));
    q[i] = x;
  }
  if (threadIdx.x < kRows) {
    const int row = static_cast<int>(threadIdx.x);
    s.position[row] = row < item.tile.count ? item.position(row) : -1;
    s.all_maximum[row] = -INFINITY;
    s.all_total[row] = 0.0f;
  }
  __syncthreads();
  if (p.norm != 0) Butterflies(q, kRows, pitch, p.dim);
}

// Where the span's keys and values are. Keys [low, high) of it are seen by some row. Where keys are
// loaded four at a time, the first four may begin before the window, in the same block.
template <KvFormat kFormat, int kRows>
__device__ __forceinline__ void PlaceKeys(const AttendParams& p, AttendShared<kRows>& s, int span,
                                          int low, int high) {
  const int key = static_cast<int>(threadIdx.x);
  const int first = p.block_tokens % 4 == 0 ? low / 4 * 4 : low;
  s.key_at[key] = s.value_at[key] = -1;
  s.scales[0][key] = s.scales[1][key] = 0.0f;
  if (key < first || key >= high) return;
  const int position = span * kSpanKeys + key, slot = position % p.block_tokens;
  const int64_t block = s.item.sequence.blocks[position / p.block_tokens] * p.block_bytes;
  const int64_t block_cells = int64_t{p.block_tokens} * p.dim;
  s.key_at[key] = block + (s.item.kv_head * block_cells + slot) * kCellBytes<kFormat>;
  if (key < low) return;
  const int64_t value_row = p.kv_heads + s.item.kv_head;
  s.value_at[key] = block + (value_row * block_cells + int64_t{slot} * p.dim) * kCellBytes<kFormat>;
  if constexpr (kFormat == KvFormat::kInt8) {
    const std::byte* scales = p.cache + block + 2 * p.kv_heads * block_cells;
    s.scales[0][key] = LoadScale(scales + 4 * (int64_t{s.item.kv_head} * p.block_tokens + slot));
    s.scales[1][key] = LoadScale(scales + 4 * (value_row * p.block_tokens + slot));
  }
}

}  // namespace lift::cuda
