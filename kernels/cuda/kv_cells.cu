#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/cuda/kv_cells.h"

namespace lift::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kWriteTokens = 32;  // of one tile, so that neighbouring tokens' keys go out together
constexpr size_t kLeastTable = 16;

int64_t BlocksOf(const AttentionSequence& s, const AttentionShape& shape) {
  return (s.position + s.tokens + shape.block_tokens - 1) / shape.block_tokens;
}

struct WriteParams {
  std::byte* cache;
  const float* k;
  const float* v;
  const DeviceSequence* sequences;
  const SequenceTile* tiles;
  int64_t block_bytes;
  int32_t kv_heads, dim, block_tokens;
  float norm;
};

__device__ __forceinline__ uint16_t HalfBits(float x) {
  const unsigned bits = __float_as_uint(x);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u)
    return static_cast<uint16_t>((bits >> 16 & 0x8000) | 0x7E00);
  return __half_as_ushort(__float2half_rn(fminf(fmaxf(x, -65504.0f), 65504.0f)));
}

__device__ __forceinline__ uint16_t BrainBits(float x) {
  const unsigned bits = __float_as_uint(x);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

// x times the row's factor is in [-127, 127] but for rounding; a row that is not finite has the
// factor NaN and keeps zeros.
__device__ __forceinline__ int8_t ByteOf(float x, float factor) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  if (factor != factor) return 0;
  const float rounded = __fadd_rn(__fmul_rn(x, factor), kMagic);
  return static_cast<int8_t>(__float_as_int(rounded) - 0x4B400000);
}

template <KvFormat kFormat>
__device__ __forceinline__ void StoreCell(std::byte* p, float x, float factor) {
  if constexpr (kFormat == KvFormat::kF32) *reinterpret_cast<float*>(p) = x;
  if constexpr (kFormat == KvFormat::kF16) *reinterpret_cast<uint16_t*>(p) = HalfBits(x);
  if constexpr (kFormat == KvFormat::kBF16) *reinterpret_cast<uint16_t*>(p) = BrainBits(x);
  if constexpr (kFormat == KvFormat::kInt8) *reinterpret_cast<int8_t*>(p) = ByteOf(x, factor);
}

struct WriteShared {
  int64_t cell[kWriteTokens], scale[kWriteTokens];  // bytes from the cache's start
  float factor[kWriteTokens];
};

// Rotates the tile's rows and finds their scales.
__device__ __forceinline__ void QuantizeRows(const WriteParams& p, WriteShared& s, float* x,
                                             int count, int pitch) {
  for (int i = static_cast<int>(threadIdx.x); i < count * p.dim; i += kThreads) {
    float& value = x[i / p.dim * pitch + i % p.dim];
    value = __fmul_rn(value, SignedNorm(i % p.dim, p.norm));
  }
  __syncthreads();
  Butterflies(x, count, pitch, p.dim);
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  for (int row = static_cast<int>(threadIdx.x) / kWarpSize; row < count; row += kWarps) {
    unsigned top = 0;  // bits of max |x|, where a NaN is above everything
    for (int d = lane; d < p.dim; d += kWarpSize)
      top = max(top, __float_as_uint(x[row * pitch + d]) & 0x7FFFFFFFu);
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2)
      top = max(top, __shfl_xor_sync(kAllLanes, top, offset));
    if (lane != 0) continue;
    const float maximum = __uint_as_float(top), nan = __uint_as_float(0x7FC00000u);
    const bool finite = top < 0x7F800000u, usable = finite && maximum > 1e-30f;
    s.factor[row] = usable ? __fdiv_rn(127.0f, maximum) : finite ? 0.0f : nan;
    StoreScale(p.cache + s.scale[row], usable ? __fdiv_rn(maximum, 127.0f) : finite ? 0.0f : nan);
  }
  __syncthreads();
}

// One block: a tile of new tokens, one key/value head, and keys (blockIdx.z 0) or values.
template <KvFormat kFormat>
__global__ void __launch_bounds__(kThreads) WriteKernel(const __grid_constant__ WriteParams p) {
  auto& s = *DynamicShared<WriteShared>();
  float* x = reinterpret_cast<float*>(&s + 1);  // [tokens][pitch]
  const SequenceTile tile = p.tiles[blockIdx.x];
  const DeviceSequence sequence = p.sequences[tile.sequence];
  const int head = static_cast<int>(blockIdx.y), half = static_cast<int>(blockIdx.z);
  const int t = static_cast<int>(threadIdx.x), dim = p.dim, pitch = dim | 1;
  const int64_t row = half * p.kv_heads + head, block_cells = int64_t{p.block_tokens} * dim;
  if (t < tile.count) {
    const int64_t position = sequence.position + tile.first + t, slot = position % p.block_tokens;
    const int64_t block = sequence.blocks[position / p.block_tokens] * p.block_bytes;
    s.cell[t] = block + (row * block_cells + (half == 0 ? slot : slot * dim)) * kCellBytes<kFormat>;
    s.scale[t] = block + 2 * p.kv_heads * block_cells + 4 * (row * p.block_tokens + slot);
  }
  const float* from =
      (half == 0 ? p.k : p.v) + ((sequence.first_row + tile.first) * p.kv_heads + head) * dim;
  for (int i = t; i < tile.count * dim; i += kThreads)
    x[i / dim * pitch + i % dim] = from[int64_t{i / dim} * p.kv_heads * dim + i % dim];
  __syncthreads();
  if constexpr (kFormat == KvFormat::kInt8) QuantizeRows(p, s, x, tile.count, pitch);
  const int64_t step = (half == 0 ? p.block_tokens : 1) * kCellBytes<kFormat>;
  for (int i = t; i < tile.count * dim; i += kThreads) {
    const int token = half == 0 ? i % tile.count : i / dim;
    const int d = half == 0 ? i / tile.count : i % dim;
    const float factor = kFormat == KvFormat::kInt8 ? s.factor[token] : 0.0f;
    StoreCell<kFormat>(p.cache + s.cell[token] + d * step, x[token * pitch + d], factor);
  }
}

using WriteFunction = void (*)(const WriteParams);
WriteFunction WriteKernelOf(KvFormat format) {
  switch (format) {
    case KvFormat::kF32:
      return WriteKernel<KvFormat::kF32>;
    case KvFormat::kF16:
      return WriteKernel<KvFormat::kF16>;
    case KvFormat::kBF16:
      return WriteKernel<KvFormat::kBF16>;
    case KvFormat::kInt8:
      break;
  }
  return WriteKernel<KvFormat::kInt8>;
}

// Tiles of `rows` of each sequence's `all(sequence)` rows that `chosen`; the last ones, which see
// most keys, start first.
template <typename All, typename Chosen>
const SequenceTile* StageTiles(CommandQueue& queue, std::span<const AttentionSequence> sequences,
                               int64_t rows, All all, Chosen chosen) {
  std::vector<SequenceTile> tiles;
  for (size_t i = 0; i < sequences.size(); ++i) {
    if (!chosen(sequences[i])) continue;
    const int64_t count = all(sequences[i]);
    for (int64_t first = (count - 1) / rows * rows; count > 0 && first >= 0; first -= rows)
      tiles.push_back({static_cast<int32_t>(i), static_cast<int32_t>(first),
                       static_cast<int32_t>(std::min(rows, count - first)), 0});
  }
  if (tiles.empty()) return nullptr;
  return queue.StageAll<SequenceTile>(tiles);
}

}  // namespace

void CheckAttentionShape(const AttentionShape& shape) {
  LIFT_CHECK(shape.heads > 0 && shape.kv_heads > 0 && shape.heads % shape.kv_heads == 0);
  LIFT_CHECK(shape.head_dim > 0 && shape.head_dim <= kMaxHeadDim && shape.block_tokens > 0);
  LIFT_CHECK(shape.window >= 0 && shape.kv_heads <= 65535);
}

float HeadNorm(const AttentionShape& shape) {
  if (shape.format != KvFormat::kInt8) return 0.0f;
  return 1.0f / std::sqrt(static_cast<float>(shape.head_dim & -shape.head_dim));
}

int TileClass(int64_t query_rows) {
  constexpr uint64_t kMost = 1 << (AttentionStep::kClasses - 1);
  return std::countr_zero(std::bit_ceil(std::clamp<uint64_t>(query_rows, 1, kMost)));
}

AttentionStep CountAttention(const AttentionShape& shape,
                             std::span<const AttentionSequence> sequences) {
  CheckAttentionShape(shape);
  AttentionStep step;
  for (const AttentionSequence& s : sequences) {
    if (s.tokens == 0) continue;
    LIFT_CHECK(s.tokens > 0 && s.position >= 0);
    const int64_t rows = s.tokens * (shape.heads / shape.kv_heads), keys = s.position + s.tokens;
    LIFT_CHECK(rows <= std::numeric_limits<int32_t>::max());
    LIFT_CHECK(keys <= std::numeric_limits<int32_t>::max() / 2);
    LIFT_CHECK(BlocksOf(s, shape) <= static_cast<int64_t>(s.blocks.size()));
    const int c = TileClass(rows);
    AttentionStep::Tiles& tiles = step.attend[c];
    tiles.count += (rows + (1 << c) - 1) >> c;
    tiles.keys = std::max(tiles.keys, static_cast<int64_t>(std::bit_ceil<uint64_t>(keys)));
    step.write_count += (s.tokens + kWriteTokens - 1) / kWriteTokens;
    step.write_tokens = std::max(step.write_tokens, std::min<int64_t>(s.tokens, kWriteTokens));
  }
  return step;
}

AttentionStep StageAttention(CommandQueue& queue, const AttentionShape& shape,
                             std::span<const AttentionSequence> sequences) {
  AttentionStep step = CountAttention(shape, sequences);
  if (step.write_count == 0) return step;
  std::vector<DeviceSequence> on_device;
  for (const AttentionSequence& s : sequences) {
    DeviceSequence& to = on_device.emplace_back();
    to = {nullptr, s.first_row, s.position};
    if (s.tokens == 0) continue;
    const auto used = static_cast<size_t>(BlocksOf(s, shape));
    to.blocks = queue.StageAll(s.blocks.first(used), std::bit_ceil(std::max(used, kLeastTable)));
  }
  step.sequences = queue.StageAll<DeviceSequence>(on_device);
  const int64_t group = shape.heads / shape.kv_heads;
  step.write_tiles = StageTiles(
      queue, sequences, kWriteTokens, [](const AttentionSequence& s) { return s.tokens; },
      [](const AttentionSequence&) { return true; });
  for (int c = 0; c < AttentionStep::kClasses; ++c) {
    if (step.attend[c].count == 0) continue;
    step.attend[c].tiles = StageTiles(
        queue, sequences, int64_t{1} << c,
        [&](const AttentionSequence& s) { return s.tokens * group; },
        [&](const AttentionSequence& s) { return TileClass(s.tokens * group) == c; });
  }
  return step;
}

void QueueWriteKv(CommandQueue& queue, std::byte* cache, const AttentionShape& shape,
                  const AttentionStep& step, const float* k, const float* v) {
  CheckAttentionShape(shape);
  if (step.write_count == 0) return;
  const WriteParams params{cache,
                           k,
                           v,
                           step.sequences,
                           step.write_tiles,
                           shape.block_bytes(),
                           static_cast<int32_t>(shape.kv_heads),
                           static_cast<int32_t>(shape.head_dim),
                           static_cast<int32_t>(shape.block_tokens),
                           HeadNorm(shape)};
  const size_t shared = sizeof(WriteShared) + static_cast<size_t>(step.write_tokens) *
                                                  static_cast<size_t>(shape.head_dim | 1) *
                                                  sizeof(float);
  const dim3 grid(static_cast<unsigned>(step.write_count), static_cast<unsigned>(shape.kv_heads),
                  2);
  queue.Launch("writing keys and values", WriteKernelOf(shape.format), grid, dim3(kThreads), shared,
               params);
}

void QueueWriteKv(CommandQueue& queue, std::byte* cache, const AttentionShape& shape,
                  std::span<const AttentionSequence> sequences, const float* k, const float* v) {
  QueueWriteKv(queue, cache, shape, StageAttention(queue, shape, sequences), k, v);
}

}  // namespace lift::cuda
