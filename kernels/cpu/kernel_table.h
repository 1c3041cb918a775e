// The inner loops of the CPU backend, one table for each instruction set. The callers (*_ops.cc)
// split work over threads and own all memory; a kernel sees plain pointers and allocates nothing.
// All tables give the same bits.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cpu/cpu_backend.h"

namespace lift::cpu {

inline constexpr int kLanes = 16;          // logical vector width of every instruction set
inline constexpr int kPanelRows = 64;      // rows of a dense weight panel
inline constexpr int kPanelColumns = 256;  // columns of one, so that it fits the second-level cache
inline constexpr int kKeyChunk = 64;  // keys of one step of the online softmax, from position 0
static_assert(kKeyChunk - 1 <= kKeysBeforeWindow);  // a window's first chunk begins before it
inline constexpr int kKeySpan = 512;     // keys whose sums are made alone and then folded in order
inline constexpr int kTilePair = 32;     // rows of two plane tiles
inline constexpr int kLookupRows = 256;  // rows that one look at a table serves, at most
inline constexpr int kMaxShift = 7;      // columns a parity may look back
inline constexpr int kWindowSigns = 7;   // signs in a row that a table entry sums, at most
inline constexpr int kMaxExpandSteps = 28;  // of a code that expand takes
inline constexpr int kMaxExpandStages = kMaxStages;
inline constexpr int kQuadBytes = 4 * kTileRows;  // four columns of a row tile as int8

// y[t][r] = chain over c of panel[c][r] * x[t][c], continued from y unless `first`.
struct PanelMatmul {
  const float* panel = nullptr;  // [cols][kPanelRows], rows past `rows` are zero
  int64_t rows = 0, cols = 0;
  const float* x = nullptr;  // [tokens], x_stride floats apart
  int64_t x_stride = 0, tokens = 0;
  float* y = nullptr;  // [tokens], y_stride floats apart
  int64_t y_stride = 0;
  bool first = true;
};

// Cells of a 16-bit cache.
struct Half {
  uint16_t bits;
};
struct Brain {
  uint16_t bits;
};

// One head's key or value of one position -> cells, `stride` cells apart.
struct StoreKv {
  const float* x = nullptr;  // [dim]
  int64_t dim = 0;
  KvFormat format = KvFormat::kF32;
  void* cells = nullptr;
  int64_t stride = 1;
  float* scale = nullptr;    // kInt8 only
  float* scratch = nullptr;  // [dim rounded up to kLanes]
};

// Query rows [row_begin, row_end) of one sequence against one key/value head.
struct AttendItem {
  const std::byte* cache = nullptr;
  const AttentionShape* shape = nullptr;
  const AttentionSequence* sequence = nullptr;
  int64_t kv_head = 0, row_begin = 0, row_end = 0;
  const float* q = nullptr;
  float* out = nullptr;
  float* scratch = nullptr;  // AttendScratchFloats(shape, row_end - row_begin), 64-byte aligned
  // Sums of the spans first_span() to end_span() - 1, AttendPartialFloats(shape, rows) each; null:
  // an item's spans are run and folded at once.
  float* partials = nullptr;
  int64_t span = 0;  // the one to run

  int64_t first_span() const {
    const int64_t low = sequence->position + row_begin;
    return shape->window == 0 || low < shape->window ? 0 : (low + 1 - shape->window) / kKeySpan;
  }
  int64_t end_span() const { return (sequence->position + row_end + kKeySpan - 1) / kKeySpan; }
};
int64_t AttendScratchFloats(const AttentionShape& shape, int64_t rows);
int64_t AttendPartialFloats(const AttentionShape& shape, int64_t rows);

// x' = R x with zeros up to `padded`, then its first `tail` values again (circular windows).
struct RotateToken {
  const float* x = nullptr;      // [cols]
  const float* signs = nullptr;  // [cols], null without a rotation
  const float* hartley = nullptr;
  float norm = 1;  // 1 / sqrt(power)
  int64_t cols = 0, padded = 0, tail = 0, power = 0, odd = 0;
  float* scratch = nullptr;  // [cols]
  float* out = nullptr;      // [padded + tail]
};

// u[t][r] = sum_m taps[m][r] * x'[t + m], quantized and stored [block][stream][32] in tile order.
struct LiftSlot {
  const float* x = nullptr;  // RotateToken::out
  const float* taps = nullptr;
  int64_t padded = 0;
  int streams = 0, steps = 0;
  bool wide = false;
  float* scratch = nullptr;  // [streams][padded]
  int8_t* high = nullptr;    // all of a narrow u
  int8_t* low = nullptr;     // wide only: u = 128 * high + low
  float* scale = nullptr;
  int32_t* sums = nullptr;  // [2] of high and low
};

// How the derived signs of a code come from its stored ones, in the two forms kernels use.
struct ParityTables {
  struct Tap {
    uint8_t stream, shift;
  };
  int derived = 0;
  int begin[kMaxStreams + 1] = {};
  Tap taps[kMaxStreams * kMaxStreams * (kMaxShift + 1)];
  // A byte of derived stream k is low[k][r] * byte + high[k][r] * byte before, over GF(2), summed
  // over r (matrices as GF2P8AFFINEQB takes them).
  uint64_t low[kMaxStreams][kMaxStreams] = {}, high[kMaxStreams][kMaxStreams] = {};
};
ParityTables MakeParityTables(const LiftCode& code);

struct DeriveTile {
  const ParityTables* tables = nullptr;
  const uint8_t* planes = nullptr;  // of the row tile, [blocks][stored][64]
  int stored = 0;
  int64_t blocks = 0, begin = 0, end = 0;
  uint8_t* out = nullptr;  // [end - begin][derived][64], 64-byte aligned
};

// acc[c][16 * tile + row] += sum over the set bits of blocks [begin, end) of columns[c].
struct SignDot {
  const uint8_t* planes[2] = {};   // of one or two row tiles
  const uint8_t* derived[2] = {};  // DeriveTile::out of the same blocks
  int tiles = 0, stored = 0, derived_streams = 0;
  int64_t begin = 0, end = 0, blocks = 0;  // `blocks` of the whole row
  const ParityTables* parity = nullptr;    // read by sign_dot_fused instead of `derived`
  const int8_t* const* columns = nullptr;  // each [blocks][streams][32]
  int64_t num_columns = 0;
  int32_t* acc = nullptr;  // [num_columns][kTilePair], 64-byte aligned
};

// acc[c][16 * tile + row] = sum over the set bits of the whole row of column c, for pairs of row
// tiles.
struct SignLookup {
  const uint8_t* planes[kLookupRows / kTileRows] = {};  // of the row tiles
  int pairs = 0;                                        // of tiles, at least 1
  const LiftCode* code = nullptr;
  int64_t blocks = 0;
  const ParityTables* parity = nullptr;
  // Of the columns: [blocks][streams], SignLookups::bytes each, 64-byte aligned.
  const int16_t* const* tables = nullptr;
  int64_t num_columns = 0;  // up to SignLookups::columns
  int32_t* acc = nullptr;   // [num_columns][kLookupRows], 64-byte aligned
};

// y[r] += coefficient * (2 acc[r] - sum), a wide column pair counting 128 * high + low.
struct SignCombine {
  const int32_t* high = nullptr;
  const int32_t* low = nullptr;  // null for a narrow column
  int32_t high_sum = 0, low_sum = 0;
  float coefficient = 0;
  int64_t rows = 0;
  float* y = nullptr;
};

// One stage of a row tile to be decoded to integers.
struct ExpandStage {
  const uint8_t* planes = nullptr;  // [blocks][stored][64]
  const uint8_t* derived =
      nullptr;  // [1 + end - begin][derived][64], that of block begin - 1 first
  int stored = 0, derived_streams = 0, windows = 0;
  // [streams][windows][2][1 << n]: low and high bytes of the 16-bit sum of n =
  // Kernels::window_signs taps by their signs; bit i of an entry's index is the sign n - 1 - i
  // columns back in the window. 32-byte aligned.
  const uint8_t* tables = nullptr;
};

// Decodes blocks [begin, end) of a row tile: w = sum of the stages' windows, |w| < 2^15 - 128.
// Output by quads of columns in the order of lifted bytes (quad i of a block: columns i, 8 + i, 16
// + i, 24 + i): [end - begin][8 quads][16 rows][4 columns] of (w + 128) >> 8 in `high`, and w - 256
// * that in `low` unless it is null. Bytes have Kernels::tile_bias added.
struct ExpandTile {
  const ExpandStage* stages = nullptr;
  int num_stages = 0;
  int64_t blocks = 0, begin = 0, end = 0;
  int8_t* high = nullptr;
  int8_t* low = nullptr;
};

// acc[c][16 * tile + row] += sum over the quads of tile bytes times columns[c] (modulo 2^32, but
// sums that the caller asks for fit).
struct TileDot {
  const int8_t* tiles[2] = {};  // ExpandTile::high or low of two row tiles, 64-byte aligned
  int64_t blocks = 0;
  const int8_t* columns = nullptr;  // [num_columns], `stride` bytes apart
  int64_t stride = 0, num_columns = 0;
  int32_t* acc = nullptr;  // [num_columns][kTilePair], 64-byte aligned
};

// y[r] = coefficient * sum over the parts of weight[i] * (acc[i][r] - offset[i]) * row_scale[r].
struct TileCombine {
  int parts = 0;  // 1, 2 or 4; the weight of a single part is 1
  const int32_t* acc[4] = {};
  int32_t offset[4] = {};
  double weight[4] = {};
  float coefficient = 0;
  const float* row_scale = nullptr;
  int64_t rows = 0;
  float* y = nullptr;
};

// v[t] += gain * code(bits) for one row of one stage.
struct DecodeStageRow {
  const LiftCode* code = nullptr;
  const uint8_t* planes = nullptr;  // of the row tile
  int row_in_tile = 0;
  int64_t padded = 0;
  float gain = 0;
  uint32_t* words = nullptr;  // scratch [streams][padded / 32]
  float* bits = nullptr;      // scratch [streams][steps - 1 + padded]
  float* sum = nullptr;       // scratch [padded]
  float* v = nullptr;         // [padded]
};

// Tokens of one sequence through a causal convolution and SiLU.
struct ConvRun {
  const float* x = nullptr;  // [tokens], x_pitch floats apart
  const float* history =
      nullptr;                    // the kernel - 1 inputs before, `pitch` floats apart; null: zeros
  const float* weight = nullptr;  // [kernel], `pitch` floats apart
  const float* bias = nullptr;
  int64_t x_pitch = 0, pitch = 0, tokens = 0, channels = 0, kernel = 0;
  float* out = nullptr;  // [tokens], `pitch` floats apart
};

// Tokens of one sequence through the scan of one head, see ScanLayer.
struct ScanRun {
  const float* x = nullptr;   // [tokens][head_dim], x_pitch floats apart
  const float* dt = nullptr;  // [tokens], softplus applied
  const float* a = nullptr;   // [states], or one
  bool a_per_state = false;
  const float* b = nullptr;  // [tokens][states], bc_pitch floats apart
  const float* c = nullptr;
  float d = 0;
  int64_t x_pitch = 0, bc_pitch = 0, out_pitch = 0, tokens = 0, head_dim = 0, states = 0;
  float* state = nullptr;  // [head_dim][states]
  float* out = nullptr;    // [tokens][head_dim], out_pitch floats apart
};

// Sign products by tables of sums of u over groups of signs.
struct SignLookups {
  int columns = 0;                                // that are summed at once; 0: there are none
  int most = 0;                                   // columns that are worth it, in turns, untuned
  int rows = 0;                                   // of SignLookup, at most
  int bytes = 0;                                  // of the tables of a block and stream
  bool (*takes)(const LiftCode& code) = nullptr;  // is there a `sum` for the code?
  // [words][bytes] of tables from [words][32] bytes of a column.
  void (*make)(const int8_t* column, int64_t words, int16_t* out) = nullptr;
  void (*sum)(const SignLookup& a) = nullptr;
};

struct Kernels {
  CpuIsa isa = CpuIsa::kPortable;
  const char* name = nullptr;
  void (*rms_norm_row)(const float* x, const float* gain, float eps, int64_t dim,
                       float* out) = nullptr;
  void (*layer_norm_row)(const float* x, const float* gain, const float* bias, float eps,
                         int64_t dim, float* out) = nullptr;
  void (*add)(float* x, const float* y, int64_t n) = nullptr;
  void (*swiglu)(const float* gate, const float* up, int64_t n, float* out) = nullptr;
  void (*gelu)(float* x, int64_t n, bool tanh_form) = nullptr;
  void (*rope_token)(float* x, int64_t heads, int64_t head_dim, int64_t rotary_dim,
                     const float* cos_sin, bool interleaved) = nullptr;
  // panel[c][r] = src[r * stride + c] for r < rows, zero for the others up to kPanelRows.
  void (*pack_panel)(const float* src, int64_t stride, int64_t rows, int64_t cols,
                     float* panel) = nullptr;
  void (*panel_matmul)(const PanelMatmul& a) = nullptr;
  void (*store_kv)(const StoreKv& a) = nullptr;
  // Without partials the whole item; with them the sums of a.span only.
  void (*attend)(const AttendItem& a) = nullptr;
  // Folds the sums of all spans and writes the rows.
  void (*attend_merge)(const AttendItem& a) = nullptr;
  void (*rotate)(const RotateToken& a) = nullptr;
  void (*lift_slot)(const LiftSlot& a) = nullptr;
  void (*derive)(const DeriveTile& a) = nullptr;
  void (*sign_dot)(const SignDot& a) = nullptr;
  // The whole row (begin = 0) for one or two columns, deriving signs on the way; false, with
  // nothing done, for codes and counts it was not compiled for. Null where there is none.
  bool (*sign_dot_fused)(const SignDot& a) = nullptr;
  SignLookups lookups;
  void (*combine)(const SignCombine& a) = nullptr;
  // y[r] *= the binary16 scale[r].
  void (*scale_rows)(const uint16_t* scale, int64_t rows, float* y) = nullptr;
  void (*decode_row)(const DecodeStageRow& a) = nullptr;
  void (*conv)(const ConvRun& a) = nullptr;
  void (*scan)(const ScanRun& a) = nullptr;
  int tile_bias = 0;                // or 128 where products want unsigned bytes
  int window_signs = kWindowSigns;  // of ExpandStage::tables
  void (*expand)(const ExpandTile& a) = nullptr;
  void (*tile_dot)(const TileDot& a) = nullptr;
  void (*tile_combine)(const TileCombine& a) = nullptr;
};

const Kernels& PortableKernels();
#if defined(LIFT_CPU_X86)
const Kernels& Avx2Kernels();
const Kernels& AvxVnniKernels();
const Kernels& Avx512Kernels();      // shifts and ORs for parity
const Kernels& Avx512GfniKernels();  // GF2P8AFFINEQB for parity
#endif
#if defined(LIFT_CPU_ARM64)
const Kernels& NeonDotprodKernels();
const Kernels& NeonI8mmKernels();
#endif
// The tables that this CPU can run, the portable one first.
std::vector<const Kernels*> RunnableKernels();
const Kernels& KernelsFor(CpuIsa isa);

}  // namespace lift::cpu
