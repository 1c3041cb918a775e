#include <algorithm>
#include <vector>

#include "kernels/base/check.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/recurrent.h"

namespace lift::cuda {
namespace {

constexpr unsigned kThreads = 128;
constexpr int64_t kMaxGridRows = 65535;  // of a grid's y

// ---- convolution ----

constexpr int64_t kConvChunk = 16;

// Some neighbouring tokens of a sequence. The first chunk alone reads and writes states: chunks are
// at least as long as a state, so the others find all inputs that they need in x.
struct ConvChunk {
  int64_t row = 0;     // of its first token in x and out
  int64_t tokens = 0;  // none: padding
  int64_t before = 0;  // tokens of the sequence before it
  int64_t all = 0;     // tokens of the sequence
  int32_t from = -1, to = 0;
};

struct ConvParams {
  const ConvChunk* chunks;
  const float* weight;
  const float* bias;
  const float* x;
  float* states;
  float* out;
  int64_t channels, kernel, x_pitch, state_pitch;
};

// One thread a channel of a chunk.
__global__ void __launch_bounds__(kThreads) ConvKernel(const __grid_constant__ ConvParams p) {
  const ConvChunk chunk = p.chunks[blockIdx.y];
  const int64_t c = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (c >= p.channels || chunk.tokens == 0) return;
  const int64_t kept = p.kernel - 1;
  const float* x = p.x + chunk.row * p.x_pitch + c;
  const float* history = chunk.from < 0 ? nullptr : p.states + chunk.from * p.state_pitch + c;
  // The input `at` tokens after the chunk's first. x is never written here.
  const auto input = [&](int64_t at) {
    if (at >= 0 || chunk.before > 0) return __ldg(x + at * p.x_pitch);
    return history == nullptr ? 0.0f : history[(at + kept) * p.channels];
  };
  const float bias = p.bias[c];
  float* out = p.out + chunk.row * p.channels + c;
  for (int64_t t = 0; t < chunk.tokens; ++t) {
    float sum = bias;
#pragma unroll 4
    for (int64_t k = 0; k < p.kernel; ++k) {
      const float weight = __ldg(p.weight + k * p.channels + c);
      sum = __fadd_rn(sum, __fmul_rn(weight, input(t - kept + k)));
    }
    out[t * p.channels] = sum / (1.0f + expf(-sum));
  }
  if (chunk.before > 0) return;
  // The last inputs. In place, row j takes what row j + all held, which is not overwritten yet.
  float* to = p.states + chunk.to * p.state_pitch + c;
  for (int64_t j = 0; j < kept; ++j) to[j * p.channels] = input(chunk.all - kept + j);
}

// ---- scan ----

struct ScanParams {
  const RecurrentSequence* sequences;
  const float* a;
  const float* d;
  const float* dt_bias;
  const float* x;
  const float* dt;
  const float* b;
  const float* c;
  float* states;
  float* out;
  int64_t head_dim, width;    // width: rows of state in all, heads * head_dim
  int64_t group_rows, tiles;  // of a group: rows, tiles of rows
  int64_t state_floats;       // of one row
  int64_t x_pitch, dt_pitch, bc_pitch, state_pitch;
  float dt_min, dt_max;
  uint32_t a_per_state;
  uint32_t vectors;  // rows of states are aligned to 16 bytes
};

// A head's step size for a token.
__device__ __forceinline__ float StepSize(const ScanParams& p, int64_t token, int64_t head) {
  const float bias = p.dt_bias == nullptr ? 0.0f : p.dt_bias[head];
  const float raw = __fadd_rn(p.dt[token * p.dt_pitch + head], bias);
  const float soft = raw > 20.0f ? raw : log1pf(expf(raw));  // as torch's
  return fminf(fmaxf(soft, p.dt_min), p.dt_max);
}

// Rows of state are dealt to sets of kLanes lanes, kRows to each; a lane keeps kPer neighbouring
// states of all its set's rows in registers.
template <int kLanes_, int kPer_, int kRows_, bool kPerState_>
struct ScanShape {
  static constexpr int kLanes = kLanes_, kPer = kPer_, kRows = kRows_;
  static constexpr bool kPerState = kPerState_;
  static constexpr int kTileRows = static_cast<int>(kThreads) / kLanes * kRows;  // of a block
  static constexpr int kStates = kLanes * kPer;
  static constexpr int kChunk = kStates <= 128 ? 16 : 2048 / kStates;  // tokens staged at once
};

template <typename Shape>
struct alignas(16) ScanShared {
  // [token][state]; zeros past the last state.
  float b[Shape::kChunk * Shape::kStates], c[Shape::kChunk * Shape::kStates];
  // [token][row]: exp(dt A), or dt where A differs by state; dt x; D x, then the output.
  float decay[Shape::kChunk * Shape::kTileRows], step[Shape::kChunk * Shape::kTileRows];
  float out[Shape::kChunk * Shape::kTileRows];
};

// What a block works on: rows [first, first + rows) of one group, for one sequence.
struct ScanTile {
  int64_t first;
  int rows, group;
};

// Calls visit(token, row of tile, index in ScanShared) for the thread's part of n tokens' rows.
template <typename Shape, typename Visit>
__device__ __forceinline__ void ForRows(const ScanTile& tile, int n, const Visit& visit) {
  for (int i = static_cast<int>(threadIdx.x); i < n * Shape::kTileRows;
       i += static_cast<int>(kThreads)) {
    if (i % Shape::kTileRows < tile.rows) visit(i / Shape::kTileRows, i % Shape::kTileRows, i);
  }
}

template <typename Shape>
__device__ __forceinline__ void StageInputs(const ScanParams& p, const ScanTile& tile,
                                            int64_t token, int n, ScanShared<Shape>& shared) {
  const int64_t group_states = tile.group * p.state_floats;
  for (int i = static_cast<int>(threadIdx.x); i < n * Shape::kStates;
       i += static_cast<int>(kThreads)) {
    const int state = i % Shape::kStates;
    const int64_t at = (token + i / Shape::kStates) * p.bc_pitch + group_states + state;
    const bool inside = state < p.state_floats;
    shared.b[i] = inside ? p.b[at] : 0.0f;
    shared.c[i] = inside ? p.c[at] : 0.0f;
  }
  ForRows<Shape>(tile, n, [&](int t, int r, int i) {
    const int64_t row = tile.first + r, head = row / p.head_dim;
    const float dt = StepSize(p, token + t, head);
    const float x = p.x[(token + t) * p.x_pitch + row];
    shared.decay[i] = Shape::kPerState ? dt : expf(__fmul_rn(dt, p.a[head]));
    shared.step[i] = __fmul_rn(dt, x);
    shared.out[i] = __fmul_rn(p.d[head], x);
  });
}

// values = the lane's states of one row of them in memory; zeros past the last.
template <typename Shape>
__device__ __forceinline__ void LoadStates(const ScanParams& p, const float* row, int lane,
                                           float (&values)[Shape::kPer]) {
#pragma unroll
  for (int i = 0; i < Shape::kPer; i += 4) {
    const int at = lane * Shape::kPer + i;
    if (p.vectors != 0 && at < p.state_floats) {
      const float4 four = *reinterpret_cast<const float4*>(row + at);
      values[i] = four.x, values[i + 1] = four.y, values[i + 2] = four.z, values[i + 3] = four.w;
    } else {
#pragma unroll
      for (int j = 0; j < 4; ++j) values[i + j] = at + j < p.state_floats ? row[at + j] : 0.0f;
    }
  }
}

template <typename Shape>
__device__ __forceinline__ void StoreStates(const ScanParams& p, const float (&values)[Shape::kPer],
                                            int lane, float* row) {
#pragma unroll
  for (int i = 0; i < Shape::kPer; i += 4) {
    const int at = lane * Shape::kPer + i;
    if (p.vectors != 0 && at < p.state_floats) {
      *reinterpret_cast<float4*>(row + at) =
          make_float4(values[i], values[i + 1], values[i + 2], values[i + 3]);
    } else {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (at + j < p.state_floats) row[at + j] = values[i + j];
      }
    }
  }
}

// Staged token t through the lane's states: s [row][state], a [state] (where it differs by state).
template <typename Shape>
__device__ __forceinline__ void ScanToken(int t, int set, int lane, const float (&a)[Shape::kPer],
                                          float (&s)[Shape::kRows][Shape::kPer],
                                          ScanShared<Shape>& shared) {
  const int first = t * Shape::kTileRows + set * Shape::kRows;
  float decay[Shape::kRows], step[Shape::kRows], sum[Shape::kRows];
#pragma unroll
  for (int r = 0; r < Shape::kRows; ++r)
    decay[r] = shared.decay[first + r], step[r] = shared.step[first + r], sum[r] = 0;
  const int states = t * Shape::kStates + lane * Shape::kPer;
#pragma unroll
  for (int i = 0; i < Shape::kPer; i += 4) {
    const float4 b4 = *reinterpret_cast<const float4*>(shared.b + states + i);
    const float4 c4 = *reinterpret_cast<const float4*>(shared.c + states + i);
    const float b[4] = {b4.x, b4.y, b4.z, b4.w}, c[4] = {c4.x, c4.y, c4.z, c4.w};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int r = 0; r < Shape::kRows; ++r) {
        const float kept = Shape::kPerState ? expf(__fmul_rn(decay[r], a[i + j])) : decay[r];
        s[r][i + j] = __fmaf_rn(kept, s[r][i + j], __fmul_rn(step[r], b[j]));
        sum[r] = __fmaf_rn(s[r][i + j], c[j], sum[r]);
      }
    }
  }
  SumOverLanes<Shape::kRows, Shape::kLanes / 2>(sum, lane);
  constexpr int kCopies = Shape::kLanes / Shape::kRows;  // lanes with the same sum
  if (lane % kCopies == 0) {
    float& out = shared.out[first + lane / kCopies];
    out = __fadd_rn(sum[0], out);
  }
}

// A block takes a tile of rows of a group through all tokens of a sequence.
template <typename Shape>
__global__ void __launch_bounds__(kThreads, 4) ScanKernel(const __grid_constant__ ScanParams p) {
  __shared__ ScanShared<Shape> shared;
  const RecurrentSequence sequence = p.sequences[blockIdx.y];
  const int64_t group = blockIdx.x / p.tiles;
  const int64_t row_of_group = blockIdx.x % p.tiles * Shape::kTileRows;
  const ScanTile tile = {
      group * p.group_rows + row_of_group,
      static_cast<int>(min(p.group_rows - row_of_group, static_cast<int64_t>(Shape::kTileRows))),
      static_cast<int>(group)};
  const int lane = static_cast<int>(threadIdx.x) % Shape::kLanes;
  const int set = static_cast<int>(threadIdx.x) / Shape::kLanes;
  const int64_t set_row = tile.first + set * Shape::kRows;
  float s[Shape::kRows][Shape::kPer] = {}, a[Shape::kPer] = {};
#pragma unroll
  for (int r = 0; r < Shape::kRows; ++r) {
    if (sequence.from < 0 || set * Shape::kRows + r >= tile.rows) continue;
    const float* state = p.states + sequence.from * p.state_pitch;
    LoadStates<Shape>(p, state + (set_row + r) * p.state_floats, lane, s[r]);
  }
  if (Shape::kPerState && set < tile.rows) {
#pragma unroll
    for (int i = 0; i < Shape::kPer; ++i) {
      const int at = lane * Shape::kPer + i;
      if (at < p.state_floats) a[i] = p.a[set_row / p.head_dim * p.state_floats + at];
    }
  }
  for (int64_t done = 0; done < sequence.tokens; done += Shape::kChunk) {
    const int64_t token = sequence.first_row + done;
    const int n =
        static_cast<int>(min(sequence.tokens - done, static_cast<int64_t>(Shape::kChunk)));
    StageInputs<Shape>(p, tile, token, n, shared);
    __syncthreads();
    for (int t = 0; t < n; ++t) ScanToken<Shape>(t, set, lane, a, s, shared);
    __syncthreads();
    // A thread overwrites no outputs but those that it stored before: no barrier is needed.
    ForRows<Shape>(tile, n, [&](int t, int r, int i) {
      p.out[(token + t) * p.width + tile.first + r] = shared.out[i];
    });
  }
#pragma unroll
  for (int r = 0; r < Shape::kRows; ++r) {
    if (set * Shape::kRows + r >= tile.rows) continue;
    float* state = p.states + sequence.to * p.state_pitch;
    StoreStates<Shape>(p, s[r], lane, state + (set_row + r) * p.state_floats);
  }
}

// Rows of more states than registers hold: one warp a row, states in memory.
__global__ void __launch_bounds__(kThreads) WideScanKernel(const __grid_constant__ ScanParams p) {
  const RecurrentSequence sequence = p.sequences[blockIdx.y];
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int64_t row =
      static_cast<int64_t>(blockIdx.x) * (kThreads / kWarpSize) + threadIdx.x / kWarpSize;
  if (row >= p.width) return;
  const int64_t head = row / p.head_dim, group = row / p.group_rows, states = p.state_floats;
  float* to = p.states + sequence.to * p.state_pitch + row * states;
  const float* from =
      sequence.from < 0 ? nullptr : p.states + sequence.from * p.state_pitch + row * states;
  const float* a = p.a + (p.a_per_state != 0 ? head * states : head);
  for (int64_t t = 0; t < sequence.tokens; ++t) {
    const int64_t token = sequence.first_row + t;
    const float* b = p.b + token * p.bc_pitch + group * states;
    const float* c = p.c + token * p.bc_pitch + group * states;
    const float dt = StepSize(p, token, head), x = p.x[token * p.x_pitch + row];
    const float step = __fmul_rn(dt, x);
    float sum = 0;
    for (int64_t n = lane; n < states; n += kWarpSize) {
      const float decay = expf(__fmul_rn(dt, a[p.a_per_state != 0 ? n : 0]));
      const float before = t > 0 ? to[n] : from != nullptr ? from[n] : 0.0f;
      const float s = __fmaf_rn(decay, before, __fmul_rn(step, b[n]));
      sum = __fmaf_rn(s, c[n], sum);
      to[n] = s;
    }
    sum = WarpSum(sum);
    if (lane == 0) p.out[token * p.width + row] = __fadd_rn(sum, __fmul_rn(p.d[head], x));
  }
}

int64_t Tiles(int64_t n, int64_t tile) { return (n + tile - 1) / tile; }

dim3 Grid(int64_t x, int64_t y) {
  LIFT_CHECK(x > 0 && x <= INT32_MAX && y > 0 && y <= kMaxGridRows);
  return {static_cast<unsigned>(x), static_cast<unsigned>(y)};
}

// A grid of tiles of rows x sequences.
template <typename Shape>
void LaunchScan(CommandQueue& queue, ScanParams params, int64_t groups, int64_t sequences) {
  params.tiles = Tiles(params.group_rows, Shape::kTileRows);
  queue.Launch("a selective scan", ScanKernel<Shape>, Grid(groups * params.tiles, sequences),
               kThreads, 0, params);
}

int64_t CountTokens(std::span<const RecurrentSequence> sequences) {
  int64_t tokens = 0;
  for (const RecurrentSequence& s : sequences) {
    LIFT_CHECK(s.tokens > 0 && s.first_row >= 0 && s.from >= -1 && s.to >= 0);
    tokens += s.tokens;
  }
  return tokens;
}

}  // namespace

void QueueCausalConv(CommandQueue& queue, const ConvLayer& layer,
                     std::span<const RecurrentSequence> sequences, float* states, const float* x,
                     int64_t pitch, float* out) {
  if (sequences.empty()) return;
  LIFT_CHECK(layer.channels > 0 && layer.kernel > 0 && pitch >= layer.channels);
  const int64_t length = std::max(kConvChunk, layer.kernel - 1), tokens = CountTokens(sequences);
  // Their number depends on nothing but how many sequences and tokens there are.
  std::vector<ConvChunk> chunks(sequences.size() + static_cast<size_t>(tokens / length));
  size_t count = 0;
  for (const RecurrentSequence& s : sequences) {
    for (int64_t t = 0; t < s.tokens; t += length) {
      chunks[count++] = {
          s.first_row + t, std::min(length, s.tokens - t), t, s.tokens, s.from, s.to};
    }
  }
  const ConvParams params = {
      queue.StageAll(std::span<const ConvChunk>(chunks)),
      layer.weight,
      layer.bias,
      x,
      states,
      out,
      layer.channels,
      layer.kernel,
      pitch,
      layer.state_pitch,
  };
  queue.Launch("a causal convolution", ConvKernel,
               Grid(Tiles(layer.channels, kThreads), static_cast<int64_t>(chunks.size())), kThreads,
               0, params);
}

void QueueSelectiveScan(CommandQueue& queue, const ScanLayer& layer,
                        std::span<const RecurrentSequence> sequences, float* states,
                        const ScanInputs& in, float* out) {
  if (sequences.empty()) return;
  LIFT_CHECK(layer.heads > 0 && layer.head_dim > 0 && layer.states > 0);
  LIFT_CHECK(layer.groups > 0 && layer.heads % layer.groups == 0);
  CountTokens(sequences);
  const auto count = static_cast<int64_t>(sequences.size());
  const bool vectors = layer.states % 4 == 0 && layer.state_pitch % 4 == 0 &&
                       reinterpret_cast<uintptr_t>(states) % 16 == 0;
  const int64_t width = layer.heads * layer.head_dim;
  const ScanParams params = {
      queue.StageAll(sequences),
      layer.a,
      layer.d,
      layer.dt_bias,
      in.x,
      in.dt,
      in.b,
      in.c,
      states,
      out,
      layer.head_dim,
      width,
      width / layer.groups,
      0,
      layer.states,
      in.x_pitch,
      in.dt_pitch,
      in.bc_pitch,
      layer.state_pitch,
      layer.dt_min,
      layer.dt_max,
      layer.a_per_state ? 1u : 0u,
      vectors ? 1u : 0u,
  };
  const auto run = [&](auto narrow) {
    LaunchScan<decltype(narrow)>(queue, params, layer.groups, count);
  };
  if (layer.states > 512) {
    queue.Launch("a selective scan", WideScanKernel,
                 Grid(Tiles(width, kThreads / kWarpSize), count), kThreads, 0, params);
  } else if (layer.states <= 16) {
    layer.a_per_state ? run(ScanShape<4, 4, 1, true>{}) : run(ScanShape<4, 4, 4, false>{});
  } else if (layer.states <= 64) {
    layer.a_per_state ? run(ScanShape<16, 4, 1, true>{}) : run(ScanShape<16, 4, 4, false>{});
  } else if (layer.states <= 128) {
    layer.a_per_state ? run(ScanShape<32, 4, 1, true>{}) : run(ScanShape<32, 4, 4, false>{});
  } else if (layer.states <= 256) {
    layer.a_per_state ? run(ScanShape<32, 8, 1, true>{}) : run(ScanShape<32, 8, 2, false>{});
  } else {
    layer.a_per_state ? run(ScanShape<32, 16, 1, true>{}) : run(ScanShape<32, 16, 1, false>{});
  }
}

}  // namespace lift::cuda
