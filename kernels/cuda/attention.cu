#include <algorithm>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/kv_cells.h"

namespace lift::cuda {
namespace {

constexpr int kWarps = kAttendThreads / kWarpSize;
constexpr int kFoldAhead = 8;           // spans whose sums are loaded together
constexpr int64_t kEnoughBlocks = 512;  // more need no split over spans: a few for each SM
constexpr int64_t kMaxWorkspace = int64_t{64} << 20;  // bytes

// Of the loops over columns and keys, and the blocks that share an SM: as registers allow.
template <int kRows, bool kFour>
constexpr int kUnroll = !kFour || kRows > 8 ? 1
                        : kRows == 4        ? 4
                                            : 2;
template <int kRows>
constexpr int kBlocksPerSm = kRows <= 2 ? 3 : 2;

// acc[r][j] += over the columns d of this lane's slice: q[r][d] * key j of `quad` at d. Columns go
// to the four slices of a warp in turns of four.
template <KvFormat kFormat, int kRows, bool kFour>
__device__ __forceinline__ void DotKeys(const AttendParams& p, const AttendShared<kRows>& s,
                                        const float* q, int quad, int slice,
                                        float (&acc)[kRows][4]) {
  const int pitch = Pitch(p.dim);
  const int64_t step = int64_t{p.block_tokens} * kCellBytes<kFormat>;
  int64_t at[4];
#pragma unroll
  for (int j = 0; j < 4; ++j) at[j] = s.key_at[4 * quad + j];
  [[maybe_unused]] constexpr int kTurns = kUnroll<kRows, kFour>;
#pragma unroll(kTurns)
  for (int begin = 4 * slice; begin < pitch; begin += 16) {
    float k[4][4] = {};  // [column][key]
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (begin + i >= p.dim) continue;
      const std::byte* column = p.cache + (begin + i) * step;
      if constexpr (kFour) {
        if (at[0] >= 0) LoadFour<kFormat>(column + at[0], k[i]);
      } else {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          if (at[j] >= 0) k[i][j] = LoadCell<kFormat>(column + at[j]);
        }
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const float4 b = *reinterpret_cast<const float4*>(q + r * pitch + begin);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        acc[r][j] = __fmaf_rn(k[0][j], b.x, acc[r][j]);
        acc[r][j] = __fmaf_rn(k[1][j], b.y, acc[r][j]);
        acc[r][j] = __fmaf_rn(k[2][j], b.z, acc[r][j]);
        acc[r][j] = __fmaf_rn(k[3][j], b.w, acc[r][j]);
      }
    }
  }
}

// s.scores = scaled products, -infinity where a row does not see the key. A warp has 32 keys: eight
// quads, and four slices of the columns whose sums are then added in pairs.
template <KvFormat kFormat, int kRows>
__device__ __forceinline__ void ScoreKeys(const AttendParams& p, AttendShared<kRows>& s,
                                          const float* q, int span, int low, int high) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int slice = lane / 8, quad = warp * 8 + lane % 8;
  const bool odd = (slice & 1) != 0, upper = (slice & 2) != 0;
  const int key = 4 * quad + (odd ? 2 : 0) + (upper ? 1 : 0);
  if (warp * kWarpSize >= high || (warp + 1) * kWarpSize <= low) {  // none of the warp's is seen
#pragma unroll
    for (int r = 0; r < kRows; ++r) s.scores[r][key] = -INFINITY;
    return;
  }
  float acc[kRows][4] = {};
  if (p.block_tokens % 4 == 0) {
    DotKeys<kFormat, kRows, true>(p, s, q, quad, slice, acc);
  } else {
    DotKeys<kFormat, kRows, false>(p, s, q, quad, slice, acc);
  }
  const int at = span * kSpanKeys + key;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    float pair[2];
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const float other = __shfl_xor_sync(kAllLanes, odd ? acc[r][j] : acc[r][j + 2], 8);
      pair[j] = __fadd_rn(odd ? acc[r][j + 2] : acc[r][j], other);
    }
    const float other = __shfl_xor_sync(kAllLanes, upper ? pair[0] : pair[1], 16);
    float score = __fadd_rn(upper ? pair[1] : pair[0], other);
    if constexpr (kFormat == KvFormat::kInt8) score = __fmul_rn(score, s.scales[0][key]);
    const int position = s.position[r];
    const bool seen = at <= position && (p.window == 0 || at > position - p.window);
    s.scores[r][key] = seen ? __fmul_rn(score, p.scale) : -INFINITY;
  }
}

// Scores become weights, of keys to values: a warp has one row at a time, a lane eight keys.
template <KvFormat kFormat, int kRows>
__device__ __forceinline__ void WeighKeys(AttendShared<kRows>& s) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  for (int r = static_cast<int>(threadIdx.x) / kWarpSize; r < kRows; r += kWarps) {
    float w[kSpanKeys / kWarpSize];
    float top = -INFINITY, total = 0;
#pragma unroll
    for (int i = 0; i < kSpanKeys / kWarpSize; ++i) {
      w[i] = s.scores[r][i * kWarpSize + lane];
      top = fmaxf(top, w[i]);
    }
    top = WarpMax(top);
#pragma unroll
    for (int i = 0; i < kSpanKeys / kWarpSize; ++i) {
      const int key = i * kWarpSize + lane;
      w[i] = w[i] == -INFINITY ? 0.0f : expf(__fsub_rn(w[i], top));
      total = __fadd_rn(total, w[i]);
      if constexpr (kFormat == KvFormat::kInt8) w[i] = __fmul_rn(w[i], s.scales[1][key]);
      s.scores[r][key] = w[i];
    }
    total = WarpSum(total);
    if (lane == 0) s.maximum[r] = top, s.total[r] = total;
  }
}

// acc[r][i] = over the quads [begin, end) of keys, `step` apart: weight * value at column d + i.
template <KvFormat kFormat, int kRows, bool kFour>
__device__ __forceinline__ void DotValues(const AttendParams& p, const AttendShared<kRows>& s,
                                          int d, int begin, int end, int step,
                                          float (&acc)[kRows][4]) {
  const std::byte* cache = p.cache + d * kCellBytes<kFormat>;
  [[maybe_unused]] constexpr int kTurns = kUnroll<kRows, kFour>;
#pragma unroll(kTurns)
  for (int quad = begin; quad < end; quad += step) {
    float v[4][4] = {};  // [key][column]
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int64_t at = s.value_at[4 * quad + j];
      if (at < 0) continue;
      if constexpr (kFour) {
        LoadFour<kFormat>(cache + at, v[j]);
      } else {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          if (d + i < p.dim) v[j][i] = LoadCell<kFormat>(cache + at + i * kCellBytes<kFormat>);
        }
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const float4 w = *reinterpret_cast<const float4*>(&s.scores[r][4 * quad]);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        acc[r][i] = __fmaf_rn(v[0][i], w.x, acc[r][i]);
        acc[r][i] = __fmaf_rn(v[1][i], w.y, acc[r][i]);
        acc[r][i] = __fmaf_rn(v[2][i], w.z, acc[r][i]);
        acc[r][i] = __fmaf_rn(v[3][i], w.w, acc[r][i]);
      }
    }
  }
}

// sum [kRows][pitch] = the weighted values of the span. Threads of a group have four columns each;
// groups take the quads of keys in turns, and their sums are added in order. Ends with a barrier.
template <KvFormat kFormat, int kRows>
__device__ __forceinline__ void AddValues(const AttendParams& p, const AttendShared<kRows>& s,
                                          float* sum, int low, int high) {
  int width = 8;
  while (4 * width < p.dim) width *= 2;
  const int groups = kAttendThreads / width, group = static_cast<int>(threadIdx.x) / width;
  const int d = static_cast<int>(threadIdx.x) % width * 4, end = (high + 3) / 4;
  const int begin = (low / 4 - group + groups - 1) / groups * groups + group;
  float acc[kRows][4] = {};
  if (d < p.dim) {
    if (p.dim % 4 == 0) {
      DotValues<kFormat, kRows, true>(p, s, d, begin, end, groups, acc);
    } else {
      DotValues<kFormat, kRows, false>(p, s, d, begin, end, groups, acc);
    }
  }
  for (int g = 0; g < groups; ++g) {
    if (g == group && d < p.dim) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        auto& to = *reinterpret_cast<float4*>(sum + r * Pitch(p.dim) + d);
        float4 x = g == 0 ? make_float4(0, 0, 0, 0) : to;
        x.x = __fadd_rn(x.x, acc[r][0]), x.y = __fadd_rn(x.y, acc[r][1]);
        x.z = __fadd_rn(x.z, acc[r][2]), x.w = __fadd_rn(x.w, acc[r][3]);
        to = x;
      }
    }
    __syncthreads();
  }
}

// How sums so far and a span's are added under their new maximum.
struct Fold {
  float maximum, keep, add;
};
__device__ __forceinline__ Fold FoldOf(float old, float part) {
  const float maximum = fmaxf(old, part);
  return {maximum, expf(__fsub_rn(old, maximum)), expf(__fsub_rn(part, maximum))};
}
__device__ __forceinline__ float Folded(float all, float part, float keep, float add) {
  return __fmaf_rn(part, add, __fmul_rn(all, keep));
}

// all [kRows][pitch] += sum, as a softmax adds. A span without keys changes nothing.
template <int kRows>
__device__ __forceinline__ void FoldSpan(const AttendParams& p, AttendShared<kRows>& s,
                                         const float* sum, float* all, bool first) {
  const int t = static_cast<int>(threadIdx.x), pitch = Pitch(p.dim);
  if (t < kRows && s.maximum[t] != -INFINITY) {
    const Fold fold = FoldOf(s.all_maximum[t], s.maximum[t]);
    s.keep[t] = fold.keep, s.add[t] = fold.add;
    s.all_total[t] = Folded(s.all_total[t], s.total[t], fold.keep, fold.add);
    s.all_maximum[t] = fold.maximum;
  }
  __syncthreads();
  for (int i = t; i < kRows * pitch; i += kAttendThreads) {
    const int r = i / pitch;
    if (i % pitch >= p.dim) continue;
    const float old = first ? 0.0f : all[i];
    all[i] = s.maximum[r] == -INFINITY ? old : Folded(old, sum[i], s.keep[r], s.add[r]);
  }
}

template <int kRows>
__device__ __forceinline__ void StorePartial(const AttendParams& p, const AttendShared<kRows>& s,
                                             const float* sum) {
  const int64_t first = (int64_t{blockIdx.x} * p.spans + blockIdx.y) * kRows;
  float* to = p.partials + first * (2 + p.dim);
  for (int i = static_cast<int>(threadIdx.x); i < kRows * (2 + p.dim); i += kAttendThreads) {
    const int r = i / (2 + p.dim), d = i % (2 + p.dim) - 2;
    to[i] = d == -2 ? s.maximum[r] : d == -1 ? s.total[r] : sum[r * Pitch(p.dim) + d];
  }
}

// out = rows [first, first + count) of the item, from their divided sums; rotates in place.
__device__ __forceinline__ void FinishRows(const AttendParams& p, const Item& item, float* x,
                                           int first, int count, int pitch) {
  __syncthreads();
  if (p.norm != 0) Butterflies(x, count, pitch, p.dim);
  for (int i = static_cast<int>(threadIdx.x); i < count * p.dim;
       i += static_cast<int>(blockDim.x)) {
    const int row = i / p.dim, d = i % p.dim;
    const float y = x[row * pitch + d];
    p.out[item.offset(p, first + row) + d] = p.norm != 0 ? __fmul_rn(y, SignedNorm(d, p.norm)) : y;
  }
}

// One block: a tile of query rows and a key/value head, over all spans of keys or, if partials are
// stored, over the span blockIdx.y of those it sees.
template <KvFormat kFormat, int kRows>
__global__ void __launch_bounds__(kAttendThreads, kBlocksPerSm<kRows>)
    AttendKernel(const __grid_constant__ AttendParams p) {
  auto& s = *DynamicShared<AttendShared<kRows>>();
  const int pitch = Pitch(p.dim);
  float* q = reinterpret_cast<float*>(&s + 1);
  float *sum = q + kRows * pitch, *all = sum + kRows * pitch;
  const bool split = p.partials != nullptr;
  int first_span, end_span;
  {
    const Item item = ItemOf(p);
    first_span = item.first_span() + (split ? static_cast<int>(blockIdx.y) : 0);
    end_span = split ? min(first_span + 1, item.end_span()) : item.end_span();
    if (first_span >= end_span) return;
    LoadQueries(p, item, s, q);
  }
  for (int span = first_span; span < end_span; ++span) {
    const int low = max(s.item.first_key - span * kSpanKeys, 0);
    const int high = min(s.item.end_key - span * kSpanKeys, kSpanKeys);
    PlaceKeys<kFormat>(p, s, span, low, high);
    __syncthreads();
    ScoreKeys<kFormat>(p, s, q, span, low, high);
    __syncthreads();
    WeighKeys<kFormat>(s);
    __syncthreads();
    AddValues<kFormat>(p, s, sum, low, high);
    if (!split) FoldSpan(p, s, sum, all, span == first_span);
  }
  if (split) return StorePartial(p, s, sum);
  for (int i = static_cast<int>(threadIdx.x); i < kRows * pitch; i += kAttendThreads)
    all[i] = __fdiv_rn(all[i], s.all_total[i / pitch]);
  FinishRows(p, s.item, all, 0, s.item.tile.count, pitch);
}

// One block: one query row of an item; a thread has one column. Folds the spans in order.
__global__ void __launch_bounds__(kMaxHeadDim)
    CombineKernel(const __grid_constant__ AttendParams p) {
  __shared__ float x[kMaxHeadDim];
  const Item item = ItemOf(p);
  const int row = static_cast<int>(blockIdx.y), d = static_cast<int>(threadIdx.x);
  if (row >= item.tile.count) return;
  const int spans = item.end_span() - item.first_span(), pitch = 2 + p.dim;
  const float* part = p.partials + (int64_t{blockIdx.x} * p.spans * p.rows + row) * pitch;
  const int64_t step = int64_t{p.rows} * pitch;
  float maximum = -INFINITY, total = 0, sum = 0;
  for (int span = 0; span < spans; span += kFoldAhead) {
    float maxima[kFoldAhead], totals[kFoldAhead], sums[kFoldAhead];
#pragma unroll
    for (int i = 0; i < kFoldAhead; ++i) {
      const float* from = part + (span + i) * step;
      const bool there = span + i < spans;
      maxima[i] = there ? from[0] : -INFINITY;
      totals[i] = there ? from[1] : 0.0f;
      sums[i] = there && d < p.dim ? from[2 + d] : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < kFoldAhead; ++i) {
      if (maxima[i] == -INFINITY) continue;
      const Fold fold = FoldOf(maximum, maxima[i]);
      total = Folded(total, totals[i], fold.keep, fold.add);
      sum = Folded(sum, sums[i], fold.keep, fold.add);
      maximum = fold.maximum;
    }
  }
  x[d] = __fdiv_rn(sum, total);
  FinishRows(p, item, x, row, 1, p.dim);
}

using AttendFunction = void (*)(const AttendParams);

template <KvFormat kFormat>
AttendFunction AttendKernelOf(int tile_class) {
  static constexpr AttendFunction kKernels[AttentionStep::kClasses] = {
      AttendKernel<kFormat, 1>, AttendKernel<kFormat, 2>, AttendKernel<kFormat, 4>,
      AttendKernel<kFormat, 8>, AttendKernel<kFormat, 16>};
  return kKernels[tile_class];
}

AttendFunction AttendKernelOf(KvFormat format, int tile_class) {
  switch (format) {
    case KvFormat::kF32:
      return AttendKernelOf<KvFormat::kF32>(tile_class);
    case KvFormat::kF16:
      return AttendKernelOf<KvFormat::kF16>(tile_class);
    case KvFormat::kBF16:
      return AttendKernelOf<KvFormat::kBF16>(tile_class);
    case KvFormat::kInt8:
      break;
  }
  return AttendKernelOf<KvFormat::kInt8>(tile_class);
}

size_t SharedBytes(int tile_class, int dim) {
  constexpr size_t kFixed[AttentionStep::kClasses] = {
      sizeof(AttendShared<1>), sizeof(AttendShared<2>), sizeof(AttendShared<4>),
      sizeof(AttendShared<8>), sizeof(AttendShared<16>)};
  return kFixed[tile_class] +
         sizeof(float) * 3 * (size_t{1} << tile_class) * static_cast<size_t>(Pitch(dim));
}

// How the tiles of one class are launched.
struct Split {
  int64_t spans = 0;      // of one item, at most; 0: a block takes all of its item's
  int64_t tiles = 0;      // of one launch
  int64_t workspace = 0;  // bytes
};

Split SplitOf(const AttentionShape& shape, const AttentionStep::Tiles& tiles, int tile_class) {
  const int64_t rows = int64_t{1} << tile_class;
  int64_t spans = (tiles.keys + kSpanKeys - 1) / kSpanKeys;
  if (shape.window > 0) spans = std::min(spans, (shape.window + rows) / kSpanKeys + 2);
  if (spans < 2 || spans > 65535 || tiles.count * shape.kv_heads >= kEnoughBlocks)
    return {0, tiles.count, 0};
  const int64_t bytes = shape.kv_heads * spans * rows * (2 + shape.head_dim) * 4;  // of one tile
  const int64_t fit = std::min(tiles.count, kMaxWorkspace / bytes);
  if (fit == 0) return {0, tiles.count, 0};
  return {spans, fit, fit * bytes};
}

}  // namespace

size_t AttentionWorkspaceBytes(const AttentionShape& shape, const AttentionStep& step) {
  int64_t bytes = 0;
  for (int c = 0; c < AttentionStep::kClasses; ++c)
    bytes = std::max(bytes, SplitOf(shape, step.attend[c], c).workspace);
  return static_cast<size_t>(bytes);
}

size_t AttentionWorkspaceBytes(const AttentionShape& shape,
                               std::span<const AttentionSequence> sequences) {
  return AttentionWorkspaceBytes(shape, CountAttention(shape, sequences));
}

void QueueAttention(CommandQueue& queue, const std::byte* cache, const AttentionShape& shape,
                    const AttentionStep& step, const float* q, float* out, float* workspace) {
  CheckAttentionShape(shape);
  const auto narrow = [](int64_t x) { return static_cast<int32_t>(x); };
  const int32_t window = narrow(std::min<int64_t>(shape.window, 0x7FFFFFFF));
  for (int c = 0; c < AttentionStep::kClasses; ++c) {
    const AttentionStep::Tiles& tiles = step.attend[c];
    if (tiles.count == 0) continue;
    const Split split = SplitOf(shape, tiles, c);
    AttendParams params{cache,
                        q,
                        out,
                        split.spans > 0 ? workspace : nullptr,
                        step.sequences,
                        tiles.tiles,
                        shape.block_bytes(),
                        narrow(shape.heads),
                        narrow(shape.kv_heads),
                        narrow(shape.head_dim),
                        narrow(shape.block_tokens),
                        window,
                        narrow(split.spans),
                        1 << c,
                        0,
                        shape.scale,
                        HeadNorm(shape)};
    const int dim = params.dim;
    for (int64_t first = 0; first < tiles.count; first += split.tiles) {
      params.tiles = tiles.tiles + first;
      const auto items =
          static_cast<unsigned>(std::min(split.tiles, tiles.count - first) * shape.kv_heads);
      const auto spans = static_cast<unsigned>(std::max<int64_t>(split.spans, 1));
      queue.Launch("attention", AttendKernelOf(shape.format, c), dim3(items, spans),
                   dim3(kAttendThreads), SharedBytes(c, dim), params);
      if (split.spans == 0) continue;
      queue.Launch("adding up attention", CombineKernel, dim3(items, 1u << c),
                   dim3(static_cast<unsigned>(dim + kWarpSize - 1) / kWarpSize * kWarpSize), 0,
                   params);
    }
  }
}

void QueueAttention(CommandQueue& queue, const std::byte* cache, const AttentionShape& shape,
                    std::span<const AttentionSequence> sequences, const float* q, float* out,
                    float* workspace) {
  QueueAttention(queue, cache, shape, StageAttention(queue, shape, sequences), q, out, workspace);
}

}  // namespace lift::cuda
