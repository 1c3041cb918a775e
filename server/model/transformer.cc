#include "server/model/transformer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "server/model/layers.h"
#include "server/model/mamba.h"
#include "server/model/mlp.h"
#include "server/model/model_layout.h"

namespace lift {
namespace {

constexpr int64_t kDefaultContextTokens = 8192;
constexpr int64_t kMaxBlocks = int64_t{1} << 31;

struct Layer {
  Norm input_norm, post_norm;
  Norm attention_out_norm, mlp_out_norm;  // no gain without output_norms
  Norm q_norm, k_norm;                    // of each head; no gain without qk_norm
  AttentionShape attention;
  bool local_rope = false;
  LinearSite qkv, o;
  MlpBlock mlp;
  std::unique_ptr<MambaBlock> mamba;  // instead of attention and MLP
};

int64_t CountTokens(std::span<const SequenceChunk> chunks) {
  int64_t tokens = 0;
  for (const SequenceChunk& chunk : chunks) tokens += static_cast<int64_t>(chunk.tokens.size());
  return tokens;
}

absl::StatusOr<Layer> BindLayer(const Weights& weights, int64_t index) {
  const layout::LayerNames names(weights.config(), index);
  Layer layer;
  layer.input_norm = BindNorm(weights, names.input_norm);
  if (weights.config().recurrent()) {
    LIFT_ASSIGN_OR_RETURN(MambaBlock mamba, BindMamba(weights, names));
    layer.mamba = std::make_unique<MambaBlock>(std::move(mamba));
    return layer;
  }
  layer.post_norm = BindNorm(weights, names.post_norm);
  layer.attention_out_norm = BindNorm(weights, names.attention_out_norm);
  layer.mlp_out_norm = BindNorm(weights, names.mlp_out_norm);
  if (weights.config().qk_norm) {
    layer.q_norm = BindNorm(weights, names.q_norm);
    layer.k_norm = BindNorm(weights, names.k_norm);
    layer.q_norm.kind = layer.k_norm.kind = NormKind::kRms;
  }
  LIFT_ASSIGN_OR_RETURN(layer.qkv, BindSite(weights, names.qkv));
  LIFT_ASSIGN_OR_RETURN(layer.o, BindSite(weights, names.o));
  LIFT_ASSIGN_OR_RETURN(layer.mlp, BindMlps(weights, names));
  return layer;
}

}  // namespace

struct Transformer::Impl {
  Impl(std::shared_ptr<const Weights> w, Backend& b, const Options& o)
      : weights(std::move(w)),
        backend(b),
        options(o),
        config(weights->config()),
        rope(config.rope),
        local_rope(config.local_rope()),
        workspace(b) {}

  std::shared_ptr<const Weights> weights;
  Backend& backend;
  Options options;
  const ModelConfig& config;
  const Matrix* embedding = nullptr;
  std::vector<Layer> layers;
  Norm final_norm;
  LinearSite head;
  RopeTable rope, local_rope;
  std::vector<std::unique_ptr<Buffer>> caches;  // [layers], see Backend::WriteKv
  Workspace workspace;
  std::unique_ptr<LiftedActivations> lifted;
  // Of the step in progress; members only to keep their memory.
  RowVariants rows, head_rows;
  std::vector<AttentionSequence> sequences, written;  // written: those that do not only look
  std::vector<RecurrentSequence> recurrent;
  std::vector<float> hidden, head_input, head_output;
  uint64_t expert_planes_read = 0, expert_full_read = 0;

  absl::Status Bind();
  absl::Status AllocateCache();
  absl::Status ReserveWorkspace();
  void Begin(std::span<const SequenceChunk> chunks);
  void CheckChunk(const SequenceChunk& chunk) const;
  void Observe(const LinearSite& site, const float* x, int64_t tokens, int64_t dim) const {
    if (options.observer) options.observer->OnInput(site.name, x, tokens, dim);
  }
  void Attend(const Layer& layer, std::byte* cache, std::span<const SequenceChunk> chunks, float* x,
              int64_t tokens);
  void Mix(const Layer& layer, float* states, float* x, int64_t tokens);
  void FeedForward(const Layer& layer, const float* normed, float* x, int64_t tokens);
  void EmbedRows(std::span<const SequenceChunk> chunks, std::vector<float>& out);
  void RunLayer(int64_t layer, std::span<const SequenceChunk> chunks, float* x);
  void RunHead(const float* x, int64_t count, std::span<const uint8_t> variants,
               std::vector<float>& logits);
  void LogitsOf(std::span<const SequenceChunk> chunks, std::span<const size_t> order,
                std::vector<float>& logits);
  uint64_t BytesRead(std::span<const SequenceChunk> chunks) const;
  uint64_t AllExpertBytes(int variant, bool full) const;
};

// --- creation ---

absl::Status Transformer::Impl::Bind() {
  LIFT_RETURN_IF_ERROR(config.Validate());
  LIFT_ASSIGN_OR_RETURN(embedding, weights->GetMatrix(layout::kEmbedding));
  for (int64_t i = 0; i < config.num_layers; ++i) {
    LIFT_ASSIGN_OR_RETURN(layers.emplace_back(), BindLayer(*weights, i));
    layers.back().attention = {config.num_heads,
                               config.num_kv_heads,
                               config.head_dim,
                               options.block_tokens,
                               static_cast<float>(config.score_scale()),
                               config.window(i),
                               options.kv_format};
    layers.back().local_rope = config.rotates_locally(i);
  }
  final_norm = BindNorm(*weights, layout::kFinalNorm);
  LIFT_ASSIGN_OR_RETURN(head, BindSite(*weights, {"lm_head", {layout::HeadName(config)}}));
  lifted = backend.MakeLiftedActivations();
  return absl::OkStatus();
}

absl::Status Transformer::Impl::AllocateCache() {
  if (options.block_tokens < 1 || options.block_tokens > 4096 || options.num_blocks < 0 ||
      options.num_blocks > kMaxBlocks) {
    return absl::InvalidArgumentError(
        "the state pool needs 1 to 4096 tokens a block and at most 2^31 blocks");
  }
  options.block_tokens = layout::StateBlockTokens(config, options.block_tokens);
  if (options.num_blocks == 0) {
    const int64_t tokens = std::min(config.max_context, kDefaultContextTokens);
    options.num_blocks = layout::StateBlocks(config, tokens, options.block_tokens);
  }
  int64_t bytes = 0;
  const int64_t block_bytes =
      layout::StateBlockBytes(config, options.block_tokens, options.kv_format);
  if (__builtin_mul_overflow(block_bytes, options.num_blocks, &bytes)) {
    return absl::ResourceExhaustedError(
        "the state pool is larger than memory; ask for fewer blocks");
  }
  for (int64_t i = 0; i < config.num_layers; ++i) {
    LIFT_ASSIGN_OR_RETURN(caches.emplace_back(),
                          backend.Allocate(static_cast<size_t>(bytes), MemoryKind::kState));
  }
  return absl::OkStatus();
}

absl::Status Transformer::Impl::ReserveWorkspace() {
  const int64_t t = options.reserve_tokens, q = config.num_heads * config.head_dim,
                kv = config.num_kv_heads * config.head_dim;
  if (t <= 0) return absl::OkStatus();
  const std::pair<Workspace::Slot, int64_t> wanted[] = {
      {Workspace::kNormed, config.hidden_size},
      {Workspace::kNormedMlp, config.hidden_size},
      {Workspace::kQuery, q},
      {Workspace::kKey, kv},
      {Workspace::kValue, kv},
      {Workspace::kAttended, q},
      {Workspace::kGate, config.intermediate_size},
      {Workspace::kUp, config.intermediate_size},
      {Workspace::kProjected, config.hidden_size},
      {Workspace::kCosSin, rope.row_floats()},
      {Workspace::kLocalCosSin, local_rope.row_floats()},
      {Workspace::kRouting, config.num_experts},
      {Workspace::kExpertInput, config.num_experts > 0 ? config.hidden_size : 0},
      {Workspace::kExpertOutput, config.num_experts > 0 ? config.hidden_size : 0}};
  for (const auto& [slot, floats] : wanted)
    LIFT_RETURN_IF_ERROR(workspace.Reserve(slot, t * floats));
  if (!config.recurrent()) return absl::OkStatus();
  for (const auto& [slot, floats] : MambaWorkspace(config))
    LIFT_RETURN_IF_ERROR(workspace.Reserve(slot, t * floats));
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Transformer>> Transformer::Create(
    std::shared_ptr<const Weights> weights, Backend& backend, Options options) {
  auto impl = std::make_unique<Impl>(std::move(weights), backend, options);
  LIFT_RETURN_IF_ERROR(impl->Bind());
  LIFT_RETURN_IF_ERROR(impl->AllocateCache());
  LIFT_RETURN_IF_ERROR(impl->ReserveWorkspace());
  return std::unique_ptr<Transformer>(new Transformer(std::move(impl)));
}

// --- one step ---

void Transformer::Impl::CheckChunk(const SequenceChunk& chunk) const {
  const auto tokens = static_cast<int64_t>(chunk.tokens.size());
  LIFT_CHECK(tokens > 0 && chunk.position >= 0);
  LIFT_CHECK(!chunk.look || !config.recurrent());
  LIFT_CHECK(chunk.variant >= 0 && chunk.variant < kPrefillRow &&
             static_cast<size_t>(chunk.variant) < weights->variants().size());
  LIFT_CHECK(static_cast<int64_t>(chunk.blocks.size()) * options.block_tokens >=
             chunk.position + tokens);
  const int64_t window = config.widest_window();
  const int64_t unread = window == 0 ? 0 : chunk.position - (window + kKeysBeforeWindow);
  for (size_t i = 0; i < chunk.blocks.size(); ++i) {
    const bool behind = (static_cast<int64_t>(i) + 1) * options.block_tokens <= unread + 1;
    LIFT_CHECK(chunk.blocks[i] < options.num_blocks && chunk.blocks[i] >= (behind ? -1 : 0));
  }
  for (int32_t token : chunk.tokens) LIFT_CHECK(token >= 0 && token < config.vocab_size);
}

// Fills `rows`, `sequences` and the rotary table for these chunks.
void Transformer::Impl::Begin(std::span<const SequenceChunk> chunks) {
  std::vector<uint8_t> variants;
  sequences.clear();
  written.clear();
  recurrent.clear();
  const int64_t width = rope.row_floats(), local_width = local_rope.row_floats();
  float* cos_sin = workspace.Get(Workspace::kCosSin, CountTokens(chunks) * width);
  float* local = workspace.Get(Workspace::kLocalCosSin, CountTokens(chunks) * local_width);
  int64_t row = 0;
  for (const SequenceChunk& chunk : chunks) {
    CheckChunk(chunk);
    const auto tokens = static_cast<int64_t>(chunk.tokens.size());
    variants.insert(variants.end(), chunk.tokens.size(),
                    static_cast<uint8_t>(chunk.variant | (chunk.prefill ? kPrefillRow : 0)));
    sequences.push_back({row, tokens, chunk.position, chunk.blocks});
    if (!chunk.look) written.push_back(sequences.back());
    recurrent.push_back({row, tokens, chunk.position == 0 ? -1 : chunk.blocks[0], chunk.blocks[0]});
    rope.CopyRows(chunk.position, tokens, cos_sin + row * width);
    local_rope.CopyRows(chunk.position, tokens, local + row * local_width);
    row += tokens;
  }
  rows.Assign(variants, weights->variants());
}

void Transformer::Impl::EmbedRows(std::span<const SequenceChunk> chunks, std::vector<float>& out) {
  const auto dim = static_cast<size_t>(config.hidden_size);
  out.resize(static_cast<size_t>(CountTokens(chunks)) * dim);
  float* row = out.data();
  for (const SequenceChunk& chunk : chunks) {
    const bool dense =
        embedding->lifted.empty() || weights->variants()[static_cast<size_t>(chunk.variant)].full;
    for (int32_t token : chunk.tokens) {
      if (dense) {
        backend.DenseRow(*embedding->dense, token, row);
      } else {
        const auto [strip, strip_row] = embedding->StripOf(token);
        backend.LiftedRow(*strip, strip_row, chunk.variant, row);
      }
      row += dim;
    }
  }
  if (config.embedding_scale == 1) return;
  for (float& value : out) value *= config.embedding_scale;
}

// x += o_proj(attention(rope(q), rope(k), v)), normed where the family does, with q, k, v from the
// normed x.
void Transformer::Impl::Attend(const Layer& layer, std::byte* cache,
                               std::span<const SequenceChunk> chunks, float* x, int64_t tokens) {
  const int64_t dim = config.hidden_size, q_dim = config.num_heads * config.head_dim,
                kv_dim = config.num_kv_heads * config.head_dim;
  float* normed = workspace.Get(Workspace::kNormed, tokens * dim);
  float* q = workspace.Get(Workspace::kQuery, tokens * q_dim);
  float* k = workspace.Get(Workspace::kKey, tokens * kv_dim);
  float* v = workspace.Get(Workspace::kValue, tokens * kv_dim);
  float* attended = workspace.Get(Workspace::kAttended, tokens * q_dim);
  float* projected = workspace.Get(Workspace::kProjected, tokens * dim);
  const int64_t rotary = rope.row_floats();
  const float* cos_sin = workspace.Get(
      layer.local_rope ? Workspace::kLocalCosSin : Workspace::kCosSin, tokens * rotary);
  LIFT_CHECK(sequences.size() == chunks.size());

  layer.input_norm.Apply(backend, x, tokens, normed);
  Observe(layer.qkv, normed, tokens, dim);
  float* const qkv[] = {q, k, v};
  ApplySite(layer.qkv, normed, rows, backend, *lifted, qkv);
  if (config.qk_norm) {
    layer.q_norm.Apply(backend, q, tokens * config.num_heads, q);
    layer.k_norm.Apply(backend, k, tokens * config.num_kv_heads, k);
  }
  backend.Rope(q, tokens, config.num_heads, config.head_dim, rotary, cos_sin,
               config.rope.interleaved);
  backend.Rope(k, tokens, config.num_kv_heads, config.head_dim, rotary, cos_sin,
               config.rope.interleaved);
  backend.WriteKv(cache, layer.attention, written, k, v);
  backend.Attention(cache, layer.attention, sequences, q, attended);
  Observe(layer.o, attended, tokens, q_dim);
  float* const out[] = {projected};
  ApplySite(layer.o, attended, rows, backend, *lifted, out);
  if (config.output_norms) layer.attention_out_norm.Apply(backend, projected, tokens, projected);
  backend.Add(x, projected, tokens * dim);
}

// x += mixer(norm(x)).
void Transformer::Impl::Mix(const Layer& layer, float* states, float* x, int64_t tokens) {
  const int64_t dim = config.hidden_size;
  float* normed = workspace.Get(Workspace::kNormed, tokens * dim);
  float* projected = workspace.Get(Workspace::kProjected, tokens * dim);
  layer.input_norm.Apply(backend, x, tokens, normed);
  MambaStep step{config, backend, workspace, *lifted, rows, recurrent, options.observer};
  ApplyMamba(*layer.mamba, normed, tokens, states, step, projected);
  backend.Add(x, projected, tokens * dim);
}

// x += mlp(normed), normed where the family does.
void Transformer::Impl::FeedForward(const Layer& layer, const float* normed, float* x,
                                    int64_t tokens) {
  float* projected = workspace.Get(Workspace::kProjected, tokens * config.hidden_size);
  MlpStep step{config, backend, workspace, *lifted, rows, weights->variants(), options.observer};
  ApplyMlps(layer.mlp, normed, tokens, step, projected);
  expert_planes_read += step.planes_read;
  expert_full_read += step.full_read;
  if (config.output_norms) layer.mlp_out_norm.Apply(backend, projected, tokens, projected);
  backend.Add(x, projected, tokens * config.hidden_size);
}

void Transformer::Impl::RunLayer(int64_t index, std::span<const SequenceChunk> chunks, float* x) {
  const Layer& layer = layers[static_cast<size_t>(index)];
  const int64_t tokens = CountTokens(chunks);
  Buffer& cache = *caches[static_cast<size_t>(index)];
  if (layer.mamba) return Mix(layer, cache.as<float>(), x, tokens);
  float* normed = workspace.Get(Workspace::kNormedMlp, tokens * config.hidden_size);
  // In parallel form the MLP reads what the attention reads: before its sum.
  if (config.parallel_residual) layer.post_norm.Apply(backend, x, tokens, normed);
  Attend(layer, cache.as<std::byte>(), chunks, x, tokens);
  if (!config.parallel_residual) layer.post_norm.Apply(backend, x, tokens, normed);
  FeedForward(layer, normed, x, tokens);
}

void Transformer::Impl::RunHead(const float* x, int64_t count, std::span<const uint8_t> variants,
                                std::vector<float>& logits) {
  LIFT_CHECK(static_cast<int64_t>(variants.size()) == count);
  logits.resize(static_cast<size_t>(count * config.vocab_size));
  if (count == 0) return;
  head_rows.Assign(variants, weights->variants());
  float* normed = workspace.Get(Workspace::kNormed, count * config.hidden_size);
  final_norm.Apply(backend, x, count, normed);
  Observe(head, normed, count, config.hidden_size);
  float* const out[] = {logits.data()};
  ApplySite(head, normed, head_rows, backend, *lifted, out);
}

// Runs the head over the rows that want logits. order[i] is the caller's index of chunks[i]; logits
// come in the caller's order.
void Transformer::Impl::LogitsOf(std::span<const SequenceChunk> chunks,
                                 std::span<const size_t> order, std::vector<float>& logits) {
  const int64_t dim = config.hidden_size;
  std::vector<uint8_t> variants;
  std::vector<std::pair<int64_t, int64_t>> extents(
      chunks.size());  // by the caller's index: first row in head_input, rows
  head_input.clear();
  int64_t end = 0;
  for (size_t i = 0; i < chunks.size(); ++i) {
    end += static_cast<int64_t>(chunks[i].tokens.size());
    const int64_t count = LogitRows(chunks[i]);
    extents[order[i]] = {static_cast<int64_t>(variants.size()), count};
    head_input.insert(head_input.end(), hidden.begin() + (end - count) * dim,
                      hidden.begin() + end * dim);
    variants.insert(variants.end(), static_cast<size_t>(count),
                    static_cast<uint8_t>(chunks[i].variant));
  }
  const auto count = static_cast<int64_t>(variants.size());
  if (std::is_sorted(order.begin(), order.end()))
    return RunHead(head_input.data(), count, variants, logits);
  RunHead(head_input.data(), count, variants, head_output);
  logits.clear();
  for (const auto& [first, rows_wanted] : extents) {
    const auto begin = head_output.begin() + first * config.vocab_size;
    logits.insert(logits.end(), begin, begin + rows_wanted * config.vocab_size);
  }
}

// What the finest variant holds, less the experts that no row of the step chose.
uint64_t Transformer::Impl::BytesRead(std::span<const SequenceChunk> chunks) const {
  int finest = -1, full = -1;
  for (const SequenceChunk& chunk : chunks) {
    int& kind = weights->variants()[static_cast<size_t>(chunk.variant)].full ? full : finest;
    kind = std::max(kind, chunk.variant);
  }
  uint64_t bytes = expert_planes_read + expert_full_read;
  if (finest >= 0) bytes += weights->VariantBytes(finest) - AllExpertBytes(finest, false);
  if (full >= 0) bytes += weights->VariantBytes(full) - AllExpertBytes(full, true);
  return bytes;
}

uint64_t Transformer::Impl::AllExpertBytes(int variant, bool full) const {
  uint64_t bytes = 0;
  if (config.num_experts == 0) return bytes;
  for (const Layer& layer : layers) bytes += ExpertBytes(layer.mlp, variant, full);
  return bytes;
}

// Chunks of full variants run first, so that a mixed step passes over the planes and over the
// source tensors once each.
void Transformer::Retain(std::span<const int> variants) { impl_->weights->Retain(variants); }

StepStats Transformer::Step(std::span<const SequenceChunk> chunks, std::vector<float>& logits) {
  Impl& m = *impl_;
  const auto start = std::chrono::steady_clock::now();
  logits.clear();
  if (chunks.empty()) return {};
  const auto is_full = [&](size_t i) {
    return m.weights->variants()[static_cast<size_t>(chunks[i].variant)].full;
  };
  std::vector<size_t> order(chunks.size());
  std::iota(order.begin(), order.end(), size_t{0});
  for (const SequenceChunk& chunk : chunks) m.CheckChunk(chunk);
  std::stable_partition(order.begin(), order.end(), is_full);
  std::vector<SequenceChunk> sorted;
  for (size_t i : order) sorted.push_back(chunks[i]);

  m.Begin(sorted);
  m.expert_planes_read = m.expert_full_read = 0;
  m.EmbedRows(sorted, m.hidden);
  for (size_t i = 0; i < m.layers.size(); ++i)
    m.RunLayer(static_cast<int64_t>(i), sorted, m.hidden.data());
  m.LogitsOf(sorted, order, logits);
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  return {m.BytesRead(chunks), elapsed.count()};
}

// --- the pieces, for calibration and evaluation ---

void Transformer::Embed(std::span<const SequenceChunk> chunks, std::vector<float>& hidden) {
  for (const SequenceChunk& chunk : chunks) impl_->CheckChunk(chunk);
  impl_->EmbedRows(chunks, hidden);
}

void Transformer::RunLayer(int64_t layer, std::span<const SequenceChunk> chunks,
                           std::vector<float>& hidden) {
  LIFT_CHECK(layer >= 0 && layer < impl_->config.num_layers);
  LIFT_CHECK(hidden.size() == static_cast<size_t>(CountTokens(chunks) * impl_->config.hidden_size));
  impl_->Begin(chunks);
  impl_->RunLayer(layer, chunks, hidden.data());
}

void Transformer::FinalNorm(const float* hidden, int64_t rows, float* out) {
  impl_->final_norm.Apply(impl_->backend, hidden, rows, out);
}

void Transformer::Head(const float* hidden, int64_t rows, std::span<const uint8_t> variants,
                       std::vector<float>& logits) {
  impl_->RunHead(hidden, rows, variants, logits);
}

// --- facts ---

Transformer::Transformer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Transformer::~Transformer() = default;

int64_t Transformer::vocab_size() const { return impl_->config.vocab_size; }
int64_t Transformer::max_context() const { return impl_->config.max_context; }
std::span<const LiftedVariant> Transformer::variants() const { return impl_->weights->variants(); }
int64_t Transformer::block_tokens() const { return impl_->options.block_tokens; }
int64_t Transformer::num_blocks() const { return impl_->options.num_blocks; }
int64_t Transformer::bytes_per_block() const {
  return static_cast<int64_t>(state_bytes()) / std::max<int64_t>(impl_->options.num_blocks, 1);
}
bool Transformer::reusable_state() const { return !impl_->config.recurrent(); }
int64_t Transformer::state_window() const {
  const int64_t window = impl_->config.widest_window();
  return window == 0 ? 0 : window + kKeysBeforeWindow;
}
void Transformer::CopyState(int32_t from, int32_t to) {
  const Impl& m = *impl_;
  LIFT_CHECK(m.config.recurrent() && from >= 0 && to >= 0 && from < m.options.num_blocks &&
             to < m.options.num_blocks);
  const int64_t floats = layout::RecurrentStateFloats(m.config);
  for (const auto& cache : m.caches) {
    float* states = cache->as<float>();
    m.backend.CopyColumns(states + from * floats, 1, floats, floats, states + to * floats);
  }
}
uint64_t Transformer::state_bytes() const {
  uint64_t bytes = 0;
  for (const auto& cache : impl_->caches) bytes += cache->size();
  return bytes;
}
std::span<std::byte> Transformer::state(int64_t layer) {
  Buffer& cache = *impl_->caches.at(static_cast<size_t>(layer));
  return {cache.as<std::byte>(), cache.size()};
}
uint64_t Transformer::workspace_bytes() const {
  return impl_->workspace.bytes() +
         sizeof(float) * (impl_->hidden.capacity() + impl_->head_input.capacity() +
                          impl_->head_output.capacity());
}
const Weights& Transformer::weights() const { return *impl_->weights; }
void Transformer::set_observer(ActivationObserver* observer) { impl_->options.observer = observer; }

}  // namespace lift
