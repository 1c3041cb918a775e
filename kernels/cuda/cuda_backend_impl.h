// The CUDA backend's class, shared by the files that implement its ops. Not for other folders.
//
// Ops take device memory (buffers, adopted weights) or any host memory: what is on the host is
// staged for the call, and a result that is wanted there is waited for. A model keeps its
// activations in buffers and its weights adopted, so that a step is one batch of commands.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/command_queue.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/experts.h"
#include "kernels/cuda/lifted_tables.h"
#include "kernels/cuda/prefill.h"
#include "kernels/cuda/resident_memory.h"

namespace lift::cuda {

// Device memory that grows; contents are lost then.
class Scratch {
 public:
  Scratch(ResidentMemory& memory, CommandQueue& queue) : memory_(&memory), queue_(&queue) {}
  Scratch(Scratch&& other) noexcept { *this = std::move(other); }
  Scratch& operator=(Scratch&& other) noexcept {
    std::swap(memory_, other.memory_);
    std::swap(queue_, other.queue_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Scratch();
  // Running out of memory here is fatal, as for a model's workspace.
  void* Reserve(size_t bytes);
  template <typename T>
  T* ReserveFor(int64_t count) {
    return static_cast<T*>(Reserve(static_cast<size_t>(count) * sizeof(T)));
  }

 private:
  ResidentMemory* memory_ = nullptr;
  CommandQueue* queue_ = nullptr;
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

// Device state shared by a backend and what it makes, which may outlive it.
struct Device {
  std::string name;
  size_t shared_limit = 0;  // bytes of dynamic shared memory a block may have
  ResidentMemory memory;
  CommandQueue queue;
};

class CudaLiftedActivations final : public LiftedActivations {
 public:
  struct Slot {
    explicit Slot(Device& device)
        : bits(device.memory, device.queue),
          scale(device.memory, device.queue),
          sums(device.memory, device.queue),
          wide(device.memory, device.queue) {}
    Scratch bits, scale, sums, wide;
    SlotTable table = {};
    const LiftCode* code = nullptr;
  };
  // Prompts' rows at one variant: `count` of `rows` from `first` on.
  struct PromptGroup {
    int variant = 0;
    int64_t first = 0, count = 0;
    bool wide = false;  // in two halves
  };
  explicit CudaLiftedActivations(std::shared_ptr<Device> of)
      : device(std::move(of)),
        prompts_high(device->memory, device->queue),
        prompts_low(device->memory, device->queue),
        prompts_scale(device->memory, device->queue) {}
  // Makes room for `tokens` tokens of a slot and returns its table but for the code.
  SlotTable& ReserveSlot(size_t slot, int64_t tokens, int parts, int64_t blocks, int streams);

  std::shared_ptr<Device> device;
  int64_t tokens = 0, blocks = 0;
  int parts = 1;
  std::vector<Slot> slots;  // of answers' rows, one after the other
  // The rows that are prompts', group by group, then those that are answers'.
  std::vector<int32_t> rows;
  int64_t prompts = 0;
  std::vector<PromptGroup> groups;
  std::vector<uint8_t> answers;  // variants of answers' rows
  // Prompts' rows, rotated and not lifted: [prompts][32 * blocks], and [prompts].
  Scratch prompts_high, prompts_low, prompts_scale;
  Halves prompts_x = {};
  const float* prompts_scale_at = nullptr;
};

// What products of prompts use, one after the other.
struct PromptMemory {
  explicit PromptMemory(Device& device);
  Blas blas;
  Scratch weights[2], sums, workspace;
  Scratch answers_x, answers_y;  // of answers' rows beside prompts
};

// Is any token of these variants wide at the site? kPrefillRow is ignored.
bool AnyWide(const LiftSite& site, std::span<const uint8_t> variants);

// Sequences as they were staged, and in which batch.
struct StagedSequences {
  struct Sequence {
    int64_t first_row, tokens, position;
    std::vector<int32_t> blocks;
  };
  std::vector<Sequence> sequences;
  int64_t block_tokens = 0, group = 0, window = 0;
  uint64_t batch = 0;
  AttentionStep step;
};

// The experts of a layer, with their tables on the device. [0]: gate and up, [1]: down.
class CudaExpertLayer final : public ExpertLayer {
 public:
  explicit CudaExpertLayer(std::shared_ptr<Device> device);

  std::vector<ExpertWeights> experts;
  int32_t per_token = 0;
  int64_t first_touched = 0;  // its place among all layers' experts
  uint64_t generation = 0;    // of the activations that the tables point to
  int64_t tiles[2] = {}, row_floats[2] = {};
  int32_t slots[2] = {};
  bool any_code = false;
  const SiteTable* sites[2] = {};  // [experts]
  const ProductSet* sets[2] = {};  // [experts]
  std::shared_ptr<Device> device;
  Scratch memory[4];
};

class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(std::shared_ptr<Device> device);
  ~CudaBackend() override;

  std::string_view device() const override { return "cuda:0"; }
  std::string description() const override;
  bool host_memory() const override { return false; }
  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(size_t bytes, MemoryKind kind) override;
  absl::Status Adopt(std::span<const std::byte> host) override;
  void Abandon(std::span<const std::byte> host) override;
  void Upload(const void* host, size_t bytes, void* buffer) override;
  void Download(const void* buffer, size_t bytes, void* host) override;
  MemoryProbe memory_probe() const override;
  void Wait() override { device_->queue.Synchronize(); }
  uint64_t allocated_bytes(MemoryKind kind) const override;

  void RmsNorm(const float* x, const float* gain, float eps, int64_t tokens, int64_t dim,
               float* out) override;
  void LayerNorm(const float* x, const float* gain, const float* bias, float eps, int64_t tokens,
                 int64_t dim, float* out) override;
  void Add(float* x, const float* y, int64_t n) override;
  void Multiply(float* x, const float* y, int64_t n) override;
  void Scale(float* x, float factor, int64_t n) override;
  void Clear(float* x, int64_t n) override;
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
  std::unique_ptr<ExpertLayer> MakeExpertLayer(std::span<const ExpertWeights> experts,
                                               int64_t per_token) override;
  void RunExperts(ExpertLayer& layer, const float* x, const float* scores, int64_t tokens,
                  std::span<const uint8_t> variants, float* out) override;
  std::vector<int32_t> TouchedExperts(ExpertLayer& layer) override;
  void LiftedRow(const LiftedMatrix& w, int64_t row, int variant, float* out) override;
  void EmbeddingRows(std::span<const EmbeddingRow> rows, int64_t dim, float* out) override;

 private:
  // Device memory with the `count` values at p, which is a buffer, adopted, or staged.
  template <typename T>
  const T* In(const T* p, int64_t count) {
    if (p == nullptr) return nullptr;
    if (const void* found = device_->memory.Find(p)) return static_cast<const T*>(found);
    return static_cast<const T*>(device_->queue.Stage(p, static_cast<size_t>(count) * sizeof(T)));
  }
  // Device memory for results that belong at p; Finish brings them there.
  template <typename T>
  T* Out(T* p, int64_t count, bool keep = false) {
    if (const void* found = device_->memory.Find(p))
      return const_cast<T*>(static_cast<const T*>(found));
    const size_t bytes = static_cast<size_t>(count) * sizeof(T);
    void* staged = device_->queue.Stage(p, keep ? bytes : 0, bytes);
    pending_.push_back({staged, p, bytes, bytes, 1});
    return static_cast<T*>(staged);
  }
  // [rows] of `width` values, `pitch` values apart; what lies between is not touched.
  float* OutRows(float* p, int64_t rows, int64_t width, int64_t pitch);
  // The same for memory that is read and written.
  template <typename T>
  T* InOut(T* p, int64_t count) {
    return Out(p, count, true);
  }
  // Ends an op: downloads what Out left on the device.
  void Finish();

  CodeTable MakeCode(const LiftCode& code);
  // All but the slots.
  SiteTable MakeSite(const LiftSite& site);
  RotationView MakeRotation(const Rotation* rotation, int64_t cols);
  // Rows of the planes that are read by anybody are on the device afterwards.
  const uint8_t* Planes(const LiftedMatrix::Stage& stage, int64_t blocks, int64_t rows);
  // Adds a matrix to the set; false if it does not fit any more.
  bool AddProduct(const LiftedMatrix& w, std::span<const int64_t> rows_read, float* y,
                  int64_t tokens, std::span<const SlotTable> slots, ProductSet& set,
                  int64_t& tiles);
  const uint8_t* StageVariants(std::span<const uint8_t> variants);
  const int32_t* StageRows(std::span<const int32_t> rows);
  PromptMemory& Prompts();
  // Tells prompts' rows from answers'.
  static void PlanPrompts(const LiftSite& site, std::span<const uint8_t> variants,
                          CudaLiftedActivations& u);
  // x, y: device memory. Returns answers' rows of x, one after the other.
  const float* RotatePrompts(const RotationView& rotation, const float* x,
                             CudaLiftedActivations& u);
  // The sign products of answers' rows. packed: [answers, rows] of one product after the other in
  // device memory; null: where the products say.
  void MultiplyAnswers(std::span<const LiftedProduct> products, const CudaLiftedActivations& u,
                       float* packed);
  void MultiplyPrompts(const LiftedMatrix& w, const CudaLiftedActivations& u, float* y);
  // scale: what decoded weights were multiplied by; split: in two halves.
  void MultiplyGroup(const LiftedMatrix& w, const ExpandPlan& plan, float scale, bool split,
                     const CudaLiftedActivations::PromptGroup& group,
                     const CudaLiftedActivations& u, float* y);
  const AttentionStep& StageSequences(const AttentionShape& shape,
                                      std::span<const AttentionSequence> sequences);
  // Rows of one tensor; `rows` and `places` as QueueLiftedRows takes them.
  void DecodeRows(const LiftedMatrix& w, const int32_t* rows, const int32_t* places,
                  std::span<const uint8_t> variants, float* out);

  struct ExpertProduct {
    const LiftedMatrix* w;
    float* y;
  };
  SiteTable MakeExpertSite(const LiftSite& site);
  ProductSet MakeExpertSet(const LiftSite& site, std::span<const ExpertProduct> products);
  void BuildExpertTables(CudaExpertLayer& layer);
  bool ReserveExperts(const CudaExpertLayer& layer, int64_t pairs, int64_t tokens);

  struct PendingDownload {
    const void* from;
    void* to;
    size_t width, pitch, rows;  // bytes
  };
  std::shared_ptr<Device> device_;
  std::vector<PendingDownload> pending_;
  Scratch rows_scratch_, attention_scratch_;
  // Variants as they were staged last, and in which batch.
  std::vector<uint8_t> variants_;
  const uint8_t* staged_variants_ = nullptr;
  uint64_t staged_batch_ = 0;
  // The same of CudaLiftedActivations::rows.
  std::vector<int32_t> rows_;
  const int32_t* staged_rows_ = nullptr;
  uint64_t staged_rows_batch_ = 0;
  std::unique_ptr<PromptMemory> prompt_memory_;  // made when the first prompt comes
  std::vector<std::unique_ptr<StagedSequences>> staged_sequences_;
  // Of expert layers, shared by all: one runs after the other.
  static constexpr int kExpertMemories = 12;
  std::vector<CudaLiftedActivations::Slot> expert_slots_;
  std::vector<Scratch> expert_memory_;
  float *expert_gate_ = nullptr, *expert_up_ = nullptr, *expert_out_ = nullptr;
  ExpertPairs expert_pairs_ = {};
  uint64_t expert_generation_ = 0;
  int64_t touched_experts_ = 0;
  bool touched_known_ = false;
  std::vector<int32_t> touched_;
};

}  // namespace lift::cuda
