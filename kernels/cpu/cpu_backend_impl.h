// The backend's class, shared by the files that implement its ops. Not for other folders.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/cpu/aligned_array.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/tuning.h"

namespace lift::cpu {

// Where the planes of the row tile that begins at `row` lie.
inline const uint8_t* TilePlanes(const LiftedMatrix::Stage& stage, int64_t padded, int64_t row) {
  const int64_t tile_bytes = padded / kTileColumns * stage.code->stored * kTileBytes;
  return reinterpret_cast<const uint8_t*>(stage.planes) + row / kTileRows * tile_bytes;
}

// Floats between two tokens' outputs.
inline int64_t Pitch(const LiftedMatrix& w) { return w.pitch > 0 ? w.pitch : w.rows; }

// Lifted activations of one site: per slot the bytes of every token, with one scale and two sums.
class CpuLiftedActivations final : public LiftedActivations {
 public:
  struct Slot {
    const LiftCode* code = nullptr;
    int parts = 1;               // 2 if any token is wide
    int64_t stride = 0;          // bytes from one part to the next
    AlignedArray<int8_t> data;   // [tokens][parts][stride]
    AlignedArray<uint8_t> wide;  // [tokens]
    AlignedArray<float> scale;   // [tokens]
    AlignedArray<int32_t> sums;  // [tokens][2]
    int8_t* column(int64_t token, int part) {
      return data.data() + (token * parts + part) * stride;
    }
    const int8_t* column(int64_t token, int part) const {
      return data.data() + (token * parts + part) * stride;
    }
    void Reserve(int64_t tokens, int64_t bytes);  // `bytes` of a part
  };
  // Prompts' rows of one variant: rows [first, first + count) of Prompts.
  struct PromptGroup {
    int variant = 0;
    bool wide = false;
    int64_t first = 0, count = 0;
  };
  // Rows with kPrefillRow, group by group: rotated, quantized and not lifted.
  struct Prompts {
    std::vector<PromptGroup> groups;
    std::vector<int32_t> rows;  // their tokens
    Slot bytes;
  };
  int64_t tokens = 0, padded = 0;
  std::vector<Slot> slots;
  Prompts prompts;
  std::vector<uint8_t> variants;  // of the rows that are lifted; kPrefillRow on the others
};

class CpuBackend final : public Backend {
 public:
  CpuBackend(ThreadPool& pool, const Kernels& kernels, const CpuTuning& tuning);

  std::string_view device() const override { return "cpu"; }
  std::string description() const override;
  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(size_t bytes, MemoryKind kind) override;

  void RmsNorm(const float* x, const float* gain, float eps, int64_t tokens, int64_t dim,
               float* out) override;
  void LayerNorm(const float* x, const float* gain, const float* bias, float eps, int64_t tokens,
                 int64_t dim, float* out) override;
  void Add(float* x, const float* y, int64_t n) override;
  void Multiply(float* x, const float* y, int64_t n) override;
  void Scale(float* x, float factor, int64_t n) override;
  void AddBias(float* y, const float* bias, int64_t tokens, int64_t dim) override;
  void SwiGlu(const float* gate, const float* up, int64_t n, float* out) override;
  void Gelu(float* x, int64_t n, bool tanh_form) override;
  void GatherRows(const float* x, std::span<const int32_t> rows, int64_t dim, float* out) override;
  void AddWeightedRows(float* x, std::span<const int32_t> rows, std::span<const float> weights,
                       const float* y, int64_t dim) override;
  void Rope(float* x, int64_t tokens, int64_t heads, int64_t head_dim, int64_t rotary_dim,
            const float* cos_sin, bool interleaved) override;
  void WriteKv(std::byte* cache, const AttentionShape& shape,
               std::span<const AttentionSequence> sequences, const float* k,
               const float* v) override;
  void Attention(const std::byte* cache, const AttentionShape& shape,
                 std::span<const AttentionSequence> sequences, const float* q, float* out) override;
  void CausalConv(const ConvLayer& layer, std::span<const RecurrentSequence> sequences,
                  float* states, const float* x, int64_t pitch, float* out) override;
  void SelectiveScan(const ScanLayer& layer, std::span<const RecurrentSequence> sequences,
                     float* states, const ScanInputs& in, float* out) override;
  void CopyColumns(const float* x, int64_t tokens, int64_t pitch, int64_t cols,
                   float* out) override;
  void DenseMatmul(const DenseMatrixView& w, const float* x, int64_t tokens, float* y) override;
  void DenseRow(const DenseMatrixView& w, int64_t row, float* out) override;
  std::unique_ptr<LiftedActivations> MakeLiftedActivations() override;
  void Lift(const LiftSite& site, const float* x, int64_t tokens, std::span<const uint8_t> variants,
            LiftedActivations& out) override;
  void LiftedMatmul(const LiftedMatrix& w, const LiftedActivations& u,
                    std::span<const uint8_t> variants, float* y) override;
  void LiftedMatmuls(std::span<const LiftedProduct> products, const LiftedActivations& u,
                     std::span<const uint8_t> variants) override;
  void LiftedRow(const LiftedMatrix& w, int64_t row, int variant, float* out) override;

 private:
  // Tokens of one stage that read a run of rows, and where their bytes are.
  struct Reader {
    int32_t token = 0;
    bool wide = false;      // two columns: high, low
    float coefficient = 0;  // gain times the token's scale
    int32_t sums[2] = {};
  };
  struct Segment {
    int64_t row_end = 0;  // rows from the segment before up to here
    std::vector<Reader> readers;
    std::vector<const int8_t*> columns;
    std::vector<const int16_t*> tables;  // of the columns, if sums are looked up; else empty
  };
  struct StagePlan {
    std::vector<Segment> segments;  // ascending row_end; none if nobody reads the stage
    ParityTables parity;
  };

  // Tables of a slot's columns while they are few and meet many rows.
  struct Lookup {
    std::vector<const int8_t*> columns;                // none: products
    size_t worth = 0;                                  // columns, at most
    int64_t words = 0;                                 // of a column: blocks x streams
    int64_t entries = 0;                               // of a word
    int64_t rows = 0;                                  // that read the slot
    AlignedArray<int16_t> tables;                      // [columns][words][entries]
    const int16_t* Table(const int8_t* column) const;  // null if it has none
  };

  // How the planes one variant reads of one matrix become integer tiles.
  struct TilePlan {
    struct Stage {
      const LiftedMatrix::Stage* stage = nullptr;
      int64_t rows = 0;  // leading ones that have it
      int windows = 0;
      const uint8_t* tables = nullptr;
      ParityTables parity;
    };
    bool wide = false;
    float unit = 0;
    std::vector<Stage> stages;
    AlignedArray<uint8_t> tables;
  };

  // Makes every thread's scratch at least `bytes` long; returns its bytes for one thread.
  void ReserveScratch(size_t bytes);
  template <typename T>
  T* Scratch(int thread) {
    return reinterpret_cast<T*>(scratch_[static_cast<size_t>(thread)].data());
  }
  // Runs body over [0, count) in even ranges, in the caller if the work is small.
  template <typename Body>
  void For(int64_t count, int64_t work_per_item, const Body& body, int64_t ranges_per_thread = 4);

  void DensePanelGroup(const DenseMatrixView& w, const float* x, int64_t first_token,
                       int64_t tokens, int64_t row, float* y, int thread);
  void PlanAttention(const std::byte* cache, const AttentionShape& shape,
                     std::span<const AttentionSequence> sequences, const float* q, float* out,
                     int64_t block_rows);
  void SplitSpans(const AttentionShape& shape);
  void PlanStage(const LiftedMatrix& w, size_t stage, const CpuLiftedActivations& u,
                 StagePlan& plan);
  void SignRows(const LiftedMatrix& w, const std::vector<StagePlan>& plans,
                const CpuLiftedActivations& u, int64_t row, int64_t row_end, float* y, int thread);
  // Up to which sums are looked up.
  int WorthColumns(const LiftCode& code) const;
  void PlanLookups(std::span<const LiftedProduct> products, const CpuLiftedActivations& u);
  void SignSegment(const LiftedMatrix::Stage& stage, const ParityTables& parity,
                   const Segment& segment, int64_t padded, int64_t pitch, int64_t row,
                   int64_t row_end, float* y, int thread);
  void DotSegment(const LiftedMatrix::Stage& stage, const ParityTables& parity,
                  const Segment& segment, int64_t padded, int64_t pitch, int64_t row,
                  int64_t row_end, float* y, int thread);
  void LookUpSegment(const LiftedMatrix::Stage& stage, const ParityTables& parity,
                     const Segment& segment, int64_t padded, int64_t pitch, int64_t row,
                     int64_t row_end, float* y, int thread);

  // Can prompts of this site be multiplied as tiles? A matter of its shape and codes alone.
  static bool ReadsPrompts(const LiftSite& site);
  static void PlanPrompts(const LiftSite& site, std::span<const uint8_t> variants,
                          CpuLiftedActivations& u);
  void PlanTiles(const LiftedMatrix& w, const CpuLiftedActivations::PromptGroup& group,
                 TilePlan& plan) const;
  size_t PromptScratch(const CpuLiftedActivations& u,
                       std::span<const LiftedProduct> products) const;
  void Expand(const TilePlan& plan, int64_t padded, int64_t row, int64_t begin, int64_t end,
              uint8_t* words, int8_t* high, int8_t* low);
  void CombinePrompts(const LiftedMatrix& w, const TilePlan& plan, bool wide,
                      const CpuLiftedActivations& u, int64_t first, int64_t count, int64_t row,
                      int64_t row_end, const int32_t* acc, float* y);
  void PromptRows(const LiftedMatrix& w, const TilePlan& plan,
                  const CpuLiftedActivations::PromptGroup& group, const CpuLiftedActivations& u,
                  int64_t row, int64_t row_end, float* y, int thread);

  ThreadPool& pool_;
  const Kernels& k_;
  const CpuTuning tuning_;
  std::vector<AlignedArray<std::byte>> scratch_;   // one a thread
  std::vector<std::vector<StagePlan>> plans_;      // of the matrices at hand, capacity kept
  std::vector<Lookup> lookups_;                    // by slot
  std::vector<std::vector<TilePlan>> tile_plans_;  // of the matrices at hand, by prompt group
  std::vector<AttendItem> attend_items_, attend_spans_;
  AlignedArray<float> attend_partials_;
};

// Backend on one given table, for tests that compare them; without a tuning as its constants say.
std::unique_ptr<Backend> MakeCpuBackendOn(ThreadPool& pool, const Kernels& kernels);
std::unique_ptr<Backend> MakeCpuBackendOn(ThreadPool& pool, const Kernels& kernels,
                                          const CpuTuning& tuning);

template <typename Body>
void CpuBackend::For(int64_t count, int64_t work_per_item, const Body& body,
                     int64_t ranges_per_thread) {
  constexpr int64_t kWorthSharing = 1 << 14;  // about a microsecond or more
  const int64_t ranges = ranges_per_thread * pool_.threads();
  const int64_t grain =
      count * work_per_item < kWorthSharing ? count : (count + ranges - 1) / ranges;
  pool_.ParallelFor(count, grain < 1 ? 1 : grain, body);
}

}  // namespace lift::cpu
