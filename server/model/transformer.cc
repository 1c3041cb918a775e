#include "server/model/transformer.h"

#include <algorithm>
#include <utility>

#include "kernels/base/check.h"
#include "server/model/model_layout.h"
#include "server/model/transformer_impl.h"

namespace lift {
namespace {

constexpr int64_t kDefaultContextTokens = 8192;
constexpr int64_t kMaxBlocks = int64_t{1} << 31;

absl::StatusOr<DecoderLayer> BindLayer(const Weights& weights, int64_t index) {
  const layout::LayerNames names(weights.config(), index);
  DecoderLayer layer;
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

// Of a backend with memory of its own.
absl::Status Transformer::Impl::AdoptWeights() {
  if (backend.host_memory()) return absl::OkStatus();
  LIFT_RETURN_IF_ERROR(weights->Adopt(backend, options.variants));
  for (DecoderLayer& layer : layers) {
    if (layer.mamba) LIFT_RETURN_IF_ERROR(AdoptMamba(*layer.mamba, backend));
    GroupExperts(config, backend, layer.mlp);
  }
  return absl::OkStatus();
}

Transformer::Impl::~Impl() {
  if (backend.host_memory()) return;
  weights->Abandon(backend);
  for (const DecoderLayer& layer : layers) {
    if (layer.mamba) AbandonMamba(*layer.mamba, backend);
  }
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
      {Workspace::kHidden, config.hidden_size},
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
  LIFT_RETURN_IF_ERROR(impl->AdoptWeights());
  LIFT_RETURN_IF_ERROR(impl->AllocateCache());
  LIFT_RETURN_IF_ERROR(impl->ReserveWorkspace());
  return std::unique_ptr<Transformer>(new Transformer(std::move(impl)));
}

// --- the pieces, for calibration and evaluation ---

void Transformer::Embed(std::span<const SequenceChunk> chunks, std::vector<float>& hidden) {
  for (const SequenceChunk& chunk : chunks) impl_->CheckChunk(chunk);
  hidden.resize(static_cast<size_t>(CountTokens(chunks) * impl_->config.hidden_size));
  impl_->EmbedRows(chunks, hidden.data());
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

void Transformer::Retain(std::span<const int> variants) {
  impl_->weights->Retain(variants, impl_->backend);
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
void Transformer::FillState(std::byte value) {
  for (const auto& cache : impl_->caches) {
    const std::vector<std::byte> bytes(cache->size(), value);
    impl_->backend.Upload(bytes.data(), bytes.size(), cache->data());
  }
}
uint64_t Transformer::workspace_bytes() const {
  return impl_->workspace.bytes() +
         sizeof(float) * (impl_->angles.capacity() + impl_->head_output.capacity());
}
const Weights& Transformer::weights() const { return *impl_->weights; }
void Transformer::set_observer(ActivationObserver* observer) { impl_->options.observer = observer; }

}  // namespace lift
