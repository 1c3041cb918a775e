#include "tests/bench/profile.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "tests/bench/read_loop.h"

namespace lift::bench {
namespace {

double PlaneBytes(const LiftedMatrix& w, std::span<const uint8_t> variants) {
  double bytes = 0;
  for (size_t j = 0; j < w.stages.size(); ++j) {
    int64_t rows = 0;  // that the finest reader wants
    for (const uint8_t variant : variants) rows = std::max(rows, w.rows_of(variant)[j]);
    bytes += static_cast<double>(PaddedRows(rows) * PaddedColumns(w.cols) / 8 *
                                 w.stages[j].code->stored);
  }
  return bytes;
}

// A product of each row that a token's variant has with each stream of its stage.
double SignProducts(const LiftedMatrix& w, std::span<const uint8_t> variants) {
  double products = 0;
  for (const uint8_t variant : variants) {
    for (size_t j = 0; j < w.stages.size(); ++j) {
      products += static_cast<double>(w.rows_of(variant)[j] * w.cols * w.stages[j].code->streams());
    }
  }
  return products;
}

// Scores and weighted values of all tokens before and at each one.
double AttentionProducts(const AttentionShape& shape,
                         std::span<const AttentionSequence> sequences) {
  double pairs = 0;
  for (const AttentionSequence& s : sequences) {
    const auto before = static_cast<double>(s.position), tokens = static_cast<double>(s.tokens);
    pairs += tokens * before + tokens * (tokens + 1) / 2;
  }
  return pairs * static_cast<double>(2 * shape.heads * shape.head_dim);
}

double StateBytes(const AttentionShape& shape, std::span<const AttentionSequence> sequences) {
  double tokens = 0;
  for (const AttentionSequence& s : sequences) {
    tokens += static_cast<double>(s.position + s.tokens);
  }
  return tokens *
         static_cast<double>(2 * shape.kv_heads * KvHeadBytes(shape.format, shape.head_dim));
}

class Profiler final : public ProfilingBackend {
 public:
  explicit Profiler(Backend& timed) : b_(timed) {}

  const std::vector<Phase>& phases() const override { return phases_; }
  void Reset() override { phases_.clear(); }

  std::string_view device() const override { return b_.device(); }
  std::string description() const override { return b_.description(); }
  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(size_t bytes, MemoryKind kind) override {
    return b_.Allocate(bytes, kind);
  }
  bool host_memory() const override { return b_.host_memory(); }
  absl::Status Adopt(std::span<const std::byte> host) override { return b_.Adopt(host); }
  void Abandon(std::span<const std::byte> host) override { b_.Abandon(host); }
  void Upload(const void* host, size_t bytes, void* buffer) override {
    b_.Upload(host, bytes, buffer);
  }
  void Download(const void* buffer, size_t bytes, void* host) override {
    b_.Download(buffer, bytes, host);
  }
  void Wait() override { b_.Wait(); }
  uint64_t allocated_bytes(MemoryKind kind) const override { return b_.allocated_bytes(kind); }
  void RmsNorm(const float* x, const float* gain, float eps, int64_t tokens, int64_t dim,
               float* out) override {
    Time("norm", 0, [&] { b_.RmsNorm(x, gain, eps, tokens, dim, out); });
  }
  void Add(float* x, const float* y, int64_t n) override {
    Time("add", 0, [&] { b_.Add(x, y, n); });
  }
  void Multiply(float* x, const float* y, int64_t n) override {
    Time("multiply", 0, [&] { b_.Multiply(x, y, n); });
  }
  void Scale(float* x, float factor, int64_t n) override {
    Time("scale", 0, [&] { b_.Scale(x, factor, n); });
  }
  void Clear(float* x, int64_t n) override {
    Time("clear", 0, [&] { b_.Clear(x, n); });
  }
  void LayerNorm(const float* x, const float* gain, const float* bias, float eps, int64_t tokens,
                 int64_t dim, float* out) override {
    Time("norm", 0, [&] { b_.LayerNorm(x, gain, bias, eps, tokens, dim, out); });
  }
  void Gelu(float* x, int64_t n, bool tanh_form) override {
    Time("gelu", 0, [&] { b_.Gelu(x, n, tanh_form); });
  }
  void GatherRows(const float* x, std::span<const int32_t> rows, int64_t dim, float* out) override {
    Time("experts", 0, [&] { b_.GatherRows(x, rows, dim, out); });
  }
  void AddWeightedRows(float* x, std::span<const int32_t> rows, std::span<const float> weights,
                       const float* y, int64_t dim) override {
    Time("experts", 0, [&] { b_.AddWeightedRows(x, rows, weights, y, dim); });
  }
  void AddBias(float* y, const float* bias, int64_t tokens, int64_t dim) override {
    Time("add", 0, [&] { b_.AddBias(y, bias, tokens, dim); });
  }
  void SwiGlu(const float* gate, const float* up, int64_t n, float* out) override {
    Time("swiglu", 0, [&] { b_.SwiGlu(gate, up, n, out); });
  }
  void Rope(float* x, int64_t tokens, int64_t heads, int64_t head_dim, int64_t rotary_dim,
            const float* cos_sin, bool interleaved) override {
    Time("rope", 0, [&] { b_.Rope(x, tokens, heads, head_dim, rotary_dim, cos_sin, interleaved); });
  }
  void WriteKv(std::byte* cache, const AttentionShape& shape,
               std::span<const AttentionSequence> sequences, const float* k,
               const float* v) override {
    Time("write kv", 0, [&] { b_.WriteKv(cache, shape, sequences, k, v); });
  }
  void Attention(const std::byte* cache, const AttentionShape& shape,
                 std::span<const AttentionSequence> sequences, const float* q,
                 float* out) override {
    Time(
        "attention", StateBytes(shape, sequences),
        [&] { b_.Attention(cache, shape, sequences, q, out); },
        AttentionProducts(shape, sequences));
  }
  void CausalConv(const ConvLayer& layer, std::span<const RecurrentSequence> sequences,
                  float* states, const float* x, int64_t pitch, float* out) override {
    Time("convolution", 0, [&] { b_.CausalConv(layer, sequences, states, x, pitch, out); });
  }
  void SelectiveScan(const ScanLayer& layer, std::span<const RecurrentSequence> sequences,
                     float* states, const ScanInputs& in, float* out) override {
    Time("scan", 0, [&] { b_.SelectiveScan(layer, sequences, states, in, out); });
  }
  void CopyColumns(const float* x, int64_t tokens, int64_t pitch, int64_t cols,
                   float* out) override {
    Time("copy", 0, [&] { b_.CopyColumns(x, tokens, pitch, cols, out); });
  }
  void DenseMatmul(const DenseMatrixView& w, const float* x, int64_t tokens, float* y) override {
    Time(
        absl::StrCat("dense ", w.rows, "x", w.cols), static_cast<double>(w.bytes()),
        [&] { b_.DenseMatmul(w, x, tokens, y); }, static_cast<double>(w.rows * w.cols * tokens));
  }
  void DenseRow(const DenseMatrixView& w, int64_t row, float* out) override {
    Time("embed", 0, [&] { b_.DenseRow(w, row, out); });
  }
  std::unique_ptr<LiftedActivations> MakeLiftedActivations() override {
    return b_.MakeLiftedActivations();
  }
  void Lift(const LiftSite& site, const float* x, int64_t tokens, std::span<const uint8_t> variants,
            LiftedActivations& out) override {
    Time(absl::StrCat("lift ", site.cols), 0, [&] { b_.Lift(site, x, tokens, variants, out); });
  }
  void LiftedMatmul(const LiftedMatrix& w, const LiftedActivations& u,
                    std::span<const uint8_t> variants, float* y) override {
    Time(
        absl::StrCat("planes ", w.rows, "x", w.cols), PlaneBytes(w, variants),
        [&] { b_.LiftedMatmul(w, u, variants, y); }, SignProducts(w, variants));
  }
  void LiftedMatmuls(std::span<const LiftedProduct> products, const LiftedActivations& u,
                     std::span<const uint8_t> variants) override {
    double bytes = 0, signs = 0;
    int64_t rows = 0;
    for (const LiftedProduct& product : products) {
      signs += SignProducts(*product.w, variants);
      bytes += PlaneBytes(*product.w, variants);
      rows += product.w->rows;
    }
    Time(
        absl::StrCat("planes ", rows, "x", products.front().w->cols), bytes,
        [&] { b_.LiftedMatmuls(products, u, variants); }, signs);
  }
  void LiftedRow(const LiftedMatrix& w, int64_t row, int variant, float* out) override {
    Time("embed", 0, [&] { b_.LiftedRow(w, row, variant, out); });
  }
  void EmbeddingRows(std::span<const EmbeddingRow> rows, int64_t dim, float* out) override {
    Time("embed", 0, [&] { b_.EmbeddingRows(rows, dim, out); });
  }

 private:
  template <typename Body>
  void Time(const std::string& name, double bytes, const Body& body, double multiply_adds = 0) {
    b_.Wait();  // a device works on its own time: one op after the other here, launches included
    const double start = Now();
    body();
    b_.Wait();
    const double seconds = Now() - start;
    auto at = std::find_if(phases_.begin(), phases_.end(),
                           [&](const Phase& phase) { return phase.name == name; });
    if (at == phases_.end()) at = phases_.insert(at, Phase{.name = name});
    ++at->calls;
    at->bytes += bytes;
    at->seconds += seconds;
    at->multiply_adds += multiply_adds;
  }

  Backend& b_;
  std::vector<Phase> phases_;
};

}  // namespace

std::unique_ptr<ProfilingBackend> MakeProfilingBackend(Backend& timed) {
  return std::make_unique<Profiler>(timed);
}

}  // namespace lift::bench
