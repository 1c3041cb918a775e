// What a device must offer to run a model: buffers and one virtual call per op. No CUDA headers
// here. All activations are row-major f32 [tokens, features]. Ops check
// their arguments with LIFT_CHECK (programmer errors); nothing is allocated inside an op except
// from `Workspace` scratch the caller passes.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/base/dtype.h"
#include "kernels/base/kv_format.h"
#include "kernels/base/status.h"
#include "kernels/format/lifted_file.h"
#include "kernels/format/rotation.h"

namespace lift {

enum class MemoryKind { kWeights, kState, kWorkspace };

// Bytes of a whole device.
struct DeviceMemory {
  uint64_t used = 0, capacity = 0;
};

// Device memory, freed on destruction. Alignment 64 bytes at least.
class Buffer {
 public:
  virtual ~Buffer() = default;
  virtual void* data() = 0;
  virtual size_t size() const = 0;
  template <typename T>
  T* as() {
    return static_cast<T*>(data());
  }
};

// A lifted tensor as the kernels read it. Borrowed; built once per model.
struct LiftedMatrix {
  int64_t rows = 0, cols = 0;
  int64_t pitch = 0;  // floats between two tokens' outputs of LiftedMatmul: the rows of the whole
                      // matrix of which this one is a strip of rows; 0 = rows
  const uint16_t* row_scale = nullptr;  // [rows] binary16
  struct Stage {
    const LiftCode* code = nullptr;
    int slot = 0;  // which lifted activation of its LiftSite it reads
    float gain = 0;
    const std::byte* planes = nullptr;  // kTileBytes-aligned
  };
  std::vector<Stage> stages;
  // stage_rows[variant * stages.size() + j]: leading rows of stage j that `variant` reads (see
  // LiftedFile::StageRows).
  std::vector<int64_t> stage_rows;
  const Rotation* rotation = nullptr;
  std::span<const int64_t> rows_of(int variant) const {
    return {stage_rows.data() + static_cast<size_t>(variant) * stages.size(), stages.size()};
  }
};

// One layer input shared by one or more lifted tensors (q/k/v; gate/up): rotated once, lifted once
// per distinct code ("slot").
struct LiftSite {
  int64_t cols = 0;
  const Rotation* rotation = nullptr;
  std::vector<const LiftCode*> codes;  // [slots]
  // wide[variant * codes.size() + slot]: this slot is quantized to 15 bits (high and low byte) for
  // tokens of that variant, because a stage < wide_stages of some tensor of the site reads it.
  // used[...]: the variant reads the slot at all.
  std::vector<uint8_t> wide, used;
};

// Or'ed to a row's variant in Lift and LiftedMatmul(s): the row belongs to a prompt, where many
// rows share the weights, and is computed in the way that is fastest for many rows, also if it
// comes alone. A prompt's row thus has other rounding than an answer's row at the same variant: the
// CPU multiplies the decoded weights, rounded to 8 bits (16 for matrices of more than
// kNarrowPrefillBits), by the rotated row, rounded to 8 bits (15 where the variant is wide). Each
// is as deterministic as the other. A device may ignore it.
inline constexpr uint8_t kPrefillRow = 0x80;
inline constexpr int kNarrowPrefillBits = 4;  // stored bits a column

// Quantized lifted activations of `tokens` rows at one site. Opaque to callers; made by Lift, read
// by LiftedMatmul. Quantization: one scale per token and slot; narrow u = round(x / scale) in
// [-127, 127]; wide keeps round(x / scale) in
// [-16256, 16256] as 128 * high + low. Integer sums are exact, so results do not depend on batch,
// threads or ISA.
class LiftedActivations {
 public:
  virtual ~LiftedActivations() = default;
};

// One expert of a mixture: down(silu(gate(x)) * up(x)).
struct ExpertWeights {
  const LiftSite *gate_up = nullptr, *down_input = nullptr;
  const LiftedMatrix *gate = nullptr, *up = nullptr, *down = nullptr;
};
// The experts of one layer as a device keeps them. Opaque; made by MakeExpertLayer, whose backend
// outlives it.
class ExpertLayer {
 public:
  virtual ~ExpertLayer() = default;
};

// Attention over the paged state: sequence i of a step.
struct AttentionSequence {
  int64_t first_row = 0;            // of this sequence's new tokens in the step's activation rows
  int64_t tokens = 0;               // new tokens; their keys and values are already in the cache
  int64_t position = 0;             // cached tokens before them
  std::span<const int32_t> blocks;  // block table
};

// Attention over a window may read this many keys before it (and give them no weight).
inline constexpr int64_t kKeysBeforeWindow = 63;

struct AttentionShape {
  int64_t heads = 0, kv_heads = 0, head_dim = 0;
  int64_t block_tokens = 0;
  float scale = 0;     // usually 1 / sqrt(head_dim)
  int64_t window = 0;  // keys a query sees, its own included; 0 = all
  KvFormat format = KvFormat::kF32;
  // Bytes of one block of one layer's cache.
  int64_t block_bytes() const {
    return 2 * kv_heads * block_tokens * KvHeadBytes(format, head_dim);
  }
};

// New tokens of one sequence of a recurrent layer. Its state before them is in block `from` (-1:
// none yet, zeros), the state after them goes to block `to`; they may be equal.
struct RecurrentSequence {
  int64_t first_row = 0, tokens = 0;
  int32_t from = -1, to = 0;
};

// Causal convolution over time, channel by channel, then SiLU.
struct ConvLayer {
  int64_t channels = 0, kernel = 0;
  const float* weight = nullptr;  // [kernel][channels], the newest input's last
  const float* bias = nullptr;    // [channels]
  int64_t state_pitch = 0;        // floats between two blocks' states, each [kernel - 1][channels]
};

// The selective scan of Mamba-1 and Mamba-2. Per head h a state S [head_dim, states]:
//   dt = clamp(softplus(dt[t][h] + dt_bias[h]), dt_min, dt_max)
//   S <- exp(dt A[h]) S + dt x[t][h] B[t]^T;   out[t][h] = S C[t] + D[h] x[t][h]
// Mamba-1 has heads of dimension 1 and an A for each state, Mamba-2 one A a head; groups of heads
// share B and C, which lie [groups][states] in a row.
struct ScanLayer {
  int64_t heads = 0, head_dim = 0, states = 0, groups = 1;
  const float* a = nullptr;  // [heads][states] or [heads]; negative
  bool a_per_state = false;
  const float* d = nullptr;        // [heads]
  const float* dt_bias = nullptr;  // [heads]; null: dt has it
  float dt_min = 0, dt_max = 0;
  int64_t state_pitch = 0;  // floats between two blocks' states, each [heads][head_dim][states]
};
struct ScanInputs {
  const float* x = nullptr;  // [tokens][heads * head_dim], x_pitch floats apart; so the others
  const float* dt = nullptr;
  const float* b = nullptr;
  const float* c = nullptr;
  int64_t x_pitch = 0, dt_pitch = 0, bc_pitch = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string_view device() const = 0;  // "cpu", "cuda:0"
  virtual std::string description() const = 0;  // chosen ISA, threads
  virtual absl::StatusOr<std::unique_ptr<Buffer>> Allocate(size_t bytes, MemoryKind kind) = 0;
  // Does the host read and write buffers directly? If not, by Upload and Download alone. Ops take
  // buffers, adopted memory and any other host memory alike; for the last a device copies.
  virtual bool host_memory() const { return true; }
  // Weights that ops will be given again and again: a device makes its own copy, once, and host
  // memory is not read any more. RESOURCE_EXHAUSTED if it has no room. They must not change until
  // they are abandoned. Adopted again with another length, they have that length from then on.
  virtual absl::Status Adopt(std::span<const std::byte> host) {
    (void)host;
    return absl::OkStatus();
  }
  virtual void Abandon(std::span<const std::byte> host) { (void)host; }
  // Between host memory and a buffer. Ops before are done when Download returns.
  virtual void Upload(const void* host, size_t bytes, void* buffer) {
    std::memcpy(buffer, host, bytes);
  }
  virtual void Download(const void* buffer, size_t bytes, void* host) {
    std::memcpy(host, buffer, bytes);
  }
  // Asks a device with memory of its own how much of it is in use, by anybody; thread-safe, and
  // valid after the backend is gone. Null where that is host memory.
  using MemoryProbe = DeviceMemory (*)();
  virtual MemoryProbe memory_probe() const { return nullptr; }
  // Returns when the ops before are done.
  virtual void Wait() {}
  // Bytes of device memory that belong to buffers and adopted weights; 0 where that is host memory.
  virtual uint64_t allocated_bytes(MemoryKind kind) const {
    (void)kind;
    return 0;
  }

  // out[t] = x[t] / sqrt(mean(x[t]^2) + eps) * gain.  x, out: [tokens, dim]; may alias.
  virtual void RmsNorm(const float* x, const float* gain, float eps, int64_t tokens, int64_t dim,
                       float* out) = 0;
  // out[t] = (x[t] - mean(x[t])) / sqrt(variance(x[t]) + eps) * gain + bias. May alias.
  virtual void LayerNorm(const float* x, const float* gain, const float* bias, float eps,
                         int64_t tokens, int64_t dim, float* out) = 0;
  // x += y over n elements.
  virtual void Add(float* x, const float* y, int64_t n) = 0;
  // x *= y over n elements.
  virtual void Multiply(float* x, const float* y, int64_t n) = 0;
  // x *= factor over n elements.
  virtual void Scale(float* x, float factor, int64_t n) = 0;
  // x = 0 over n elements.
  virtual void Clear(float* x, int64_t n) { std::fill(x, x + n, 0.0f); }
  // y[t] += bias.
  virtual void AddBias(float* y, const float* bias, int64_t tokens, int64_t dim) = 0;
  // out = silu(gate) * up, elementwise over n; may alias gate.
  virtual void SwiGlu(const float* gate, const float* up, int64_t n, float* out) = 0;
  // x = x * Phi(x) over n elements in place, or its usual tanh form
  // 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).
  virtual void Gelu(float* x, int64_t n, bool tanh_form) = 0;
  // out[i] = x[rows[i]]; x: [*, dim], out: [rows.size(), dim].
  virtual void GatherRows(const float* x, std::span<const int32_t> rows, int64_t dim,
                          float* out) = 0;
  // x[rows[i]] += weights[i] * y[i]; no row twice.
  virtual void AddWeightedRows(float* x, std::span<const int32_t> rows,
                               std::span<const float> weights, const float* y, int64_t dim) = 0;
  // Rotates q [tokens, heads, head_dim] and k in place by precomputed cos/sin rows: cos_sin[t] =
  // rotary_dim/2 cosines, then sines. interleaved: pairs (2i, 2i+1) as GGUF's llama stores them;
  // else (i, i + rotary_dim/2) as Hugging Face does.
  virtual void Rope(float* x, int64_t tokens, int64_t heads, int64_t head_dim, int64_t rotary_dim,
                    const float* cos_sin, bool interleaved) = 0;
  // Stores k, v [tokens, kv_heads, head_dim] of the sequences, which may be some of the step's,
  // into one layer's paged cache. cache: [blocks] of block_bytes(): a head's keys
  // [head_dim][block_tokens] for every key/value head, then a head's values
  // [block_tokens][head_dim] for each, then (kInt8) the scales of the keys and of the values, f32
  // [2][kv_heads][block_tokens]. kF16 keeps what leaves its range as its largest number.
  virtual void WriteKv(std::byte* cache, const AttentionShape& shape,
                       std::span<const AttentionSequence> sequences, const float* k,
                       const float* v) = 0;
  // Causal grouped-query attention over the last `window` keys. q, out: [tokens, heads, head_dim].
  // Each output row depends only on its own sequence and is computed in the same order whatever
  // else is in the batch: the same bits for every chunking, batch, thread count, instruction set
  // and block size.
  virtual void Attention(const std::byte* cache, const AttentionShape& shape,
                         std::span<const AttentionSequence> sequences, const float* q,
                         float* out) = 0;

  // out [tokens][channels] = silu(conv(x)), x[t] being `pitch` floats apart. A token's result does
  // not depend on how its sequence is cut into steps.
  virtual void CausalConv(const ConvLayer& layer, std::span<const RecurrentSequence> sequences,
                          float* states, const float* x, int64_t pitch, float* out) = 0;
  // out: [tokens][heads * head_dim]. A sequence's tokens one after the other, whatever the step:
  // the same bits for a whole prompt as token by token.
  virtual void SelectiveScan(const ScanLayer& layer, std::span<const RecurrentSequence> sequences,
                             float* states, const ScanInputs& in, float* out) = 0;
  // out [tokens][cols] = the first `cols` of every row of x, which are `pitch` floats apart.
  virtual void CopyColumns(const float* x, int64_t tokens, int64_t pitch, int64_t cols,
                           float* out) = 0;

  // y[t] = W x[t]; every output is one sequential chain of fused multiply-adds over the columns, so
  // it is independent of tokens, threads and ISA. x: [tokens, cols], y: [tokens, rows].
  virtual void DenseMatmul(const DenseMatrixView& w, const float* x, int64_t tokens, float* y) = 0;
  // out = row `row` of w as float.
  virtual void DenseRow(const DenseMatrixView& w, int64_t row, float* out) = 0;

  virtual std::unique_ptr<LiftedActivations>
  MakeLiftedActivations() = 0;  // grows on demand, reusable
  // Rotates, lifts and quantizes x [tokens, cols]; variants[t] is token t's variant.
  virtual void Lift(const LiftSite& site, const float* x, int64_t tokens,
                    std::span<const uint8_t> variants, LiftedActivations& out) = 0;
  // y[t] = the part of W that variants[t] reads, times x[t]. One pass over the planes whatever the
  // mix of variants. `u` must come from Lift of a site whose slots w's stages name, with the same
  // tokens and variants.
  virtual void LiftedMatmul(const LiftedMatrix& w, const LiftedActivations& u,
                            std::span<const uint8_t> variants, float* y) = 0;
  // Several matrices of one site: the same bits as one LiftedMatmul after another, in one pass
  // where the device gains by it.
  struct LiftedProduct {
    const LiftedMatrix* w = nullptr;
    float* y = nullptr;
  };
  virtual void LiftedMatmuls(std::span<const LiftedProduct> products, const LiftedActivations& u,
                             std::span<const uint8_t> variants) {
    for (const LiftedProduct& product : products) LiftedMatmul(*product.w, u, variants, product.y);
  }
  // Experts in one go, rows grouped by expert on the device, so that the host does not wait for the
  // choice. Null where a device has no such kernels: then the caller goes expert by expert.
  virtual std::unique_ptr<ExpertLayer> MakeExpertLayer(std::span<const ExpertWeights> experts,
                                                       int64_t per_token) {
    (void)experts, (void)per_token;
    return nullptr;
  }
  // out [tokens, hidden] = sum over each row's `per_token` best experts by score (the lower index
  // of equals), weighted by softmax over those. x: [tokens, hidden]; scores: [tokens, experts].
  // Variants are lifted ones. Only the planes of experts that a row chose are read.
  virtual void RunExperts(ExpertLayer& layer, const float* x, const float* scores, int64_t tokens,
                          std::span<const uint8_t> variants, float* out) {
    (void)layer, (void)x, (void)scores, (void)tokens, (void)variants, (void)out;
  }
  // [experts]: 1 + the finest variant of the rows that chose it in the last RunExperts, 0 if none
  // did. Waits for the device.
  virtual std::vector<int32_t> TouchedExperts(ExpertLayer& layer) {
    (void)layer;
    return {};
  }
  // out [cols] = row `row` of w at `variant`, rotated back to the model's own basis (embedding
  // look-up).
  virtual void LiftedRow(const LiftedMatrix& w, int64_t row, int variant, float* out) = 0;
  // out [rows.size(), dim]: each as DenseRow or LiftedRow gives it.
  struct EmbeddingRow {
    const LiftedMatrix* lifted = nullptr;  // or `dense`
    const DenseMatrixView* dense = nullptr;
    int64_t row = 0;
    int variant = 0;
  };
  virtual void EmbeddingRows(std::span<const EmbeddingRow> rows, int64_t dim, float* out) {
    for (const EmbeddingRow& r : rows) {
      if (r.lifted != nullptr) {
        LiftedRow(*r.lifted, r.row, r.variant, out);
      } else {
        DenseRow(*r.dense, r.row, out);
      }
      out += dim;
    }
  }
};

}  // namespace lift
