// One step through the graph.
#include <algorithm>
#include <chrono>
#include <numeric>
#include <utility>

#include "kernels/base/check.h"
#include "server/model/model_layout.h"
#include "server/model/transformer_impl.h"

namespace lift {

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
  const int64_t tokens_in_all = CountTokens(chunks);
  angles.resize(static_cast<size_t>(tokens_in_all * (width + local_width)));
  float *cos_sin = angles.data(), *local = cos_sin + tokens_in_all * width;
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
  const auto send = [&](Workspace::Slot slot, const float* from, int64_t floats) {
    backend.Upload(from, static_cast<size_t>(floats) * sizeof(float), workspace.Get(slot, floats));
  };
  send(Workspace::kCosSin, cos_sin, tokens_in_all * width);
  send(Workspace::kLocalCosSin, local, tokens_in_all * local_width);
  rows.Assign(variants, weights->variants());
}

void Transformer::Impl::EmbedRows(std::span<const SequenceChunk> chunks, float* out) {
  std::vector<Backend::EmbeddingRow> wanted;
  for (const SequenceChunk& chunk : chunks) {
    const bool dense =
        embedding->lifted.empty() || weights->variants()[static_cast<size_t>(chunk.variant)].full;
    for (const int32_t token : chunk.tokens) {
      if (dense) {
        wanted.push_back({nullptr, &*embedding->dense, token, chunk.variant});
      } else {
        const auto [strip, strip_row] = embedding->StripOf(token);
        wanted.push_back({strip, nullptr, strip_row, chunk.variant});
      }
    }
  }
  backend.EmbeddingRows(wanted, config.hidden_size, out);
  if (config.embedding_scale == 1) return;
  backend.Scale(out, config.embedding_scale,
                static_cast<int64_t>(wanted.size()) * config.hidden_size);
}

// x += o_proj(attention(rope(q), rope(k), v)), normed where the family does, with q, k, v from the
// normed x.
void Transformer::Impl::Attend(const DecoderLayer& layer, std::byte* cache,
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
void Transformer::Impl::Mix(const DecoderLayer& layer, float* states, float* x, int64_t tokens) {
  const int64_t dim = config.hidden_size;
  float* normed = workspace.Get(Workspace::kNormed, tokens * dim);
  float* projected = workspace.Get(Workspace::kProjected, tokens * dim);
  layer.input_norm.Apply(backend, x, tokens, normed);
  MambaStep step{config, backend, workspace, *lifted, rows, recurrent, options.observer};
  ApplyMamba(*layer.mamba, normed, tokens, states, step, projected);
  backend.Add(x, projected, tokens * dim);
}

// x += mlp(normed), normed where the family does.
void Transformer::Impl::FeedForward(DecoderLayer& layer, const float* normed, float* x,
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
  DecoderLayer& layer = layers[static_cast<size_t>(index)];
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
  if (backend.host_memory()) {
    float* const out[] = {logits.data()};
    return ApplySite(head, normed, head_rows, backend, *lifted, out);
  }
  float* const out[] = {workspace.Get(Workspace::kLogits, count * config.vocab_size)};
  ApplySite(head, normed, head_rows, backend, *lifted, out);
  backend.Download(out[0], logits.size() * sizeof(float), logits.data());
}

// Runs the head over the rows of `hidden` that want logits. order[i] is the caller's index of
// chunks[i]; logits come in the caller's order.
void Transformer::Impl::LogitsOf(const float* hidden, std::span<const SequenceChunk> chunks,
                                 std::span<const size_t> order, std::vector<float>& logits) {
  std::vector<uint8_t> variants;
  std::vector<int32_t> wanted;  // rows of hidden
  std::vector<std::pair<int64_t, int64_t>> extents(
      chunks.size());  // by the caller's index: first of `wanted`, rows
  int64_t end = 0;
  for (size_t i = 0; i < chunks.size(); ++i) {
    end += static_cast<int64_t>(chunks[i].tokens.size());
    const int64_t count = LogitRows(chunks[i]);
    extents[order[i]] = {static_cast<int64_t>(wanted.size()), count};
    for (int64_t row = end - count; row < end; ++row) wanted.push_back(static_cast<int32_t>(row));
    variants.insert(variants.end(), static_cast<size_t>(count),
                    static_cast<uint8_t>(chunks[i].variant));
  }
  const auto count = static_cast<int64_t>(wanted.size());
  const float* input = hidden;
  if (count < end) {
    float* gathered = workspace.Get(Workspace::kHeadInput, count * config.hidden_size);
    backend.GatherRows(hidden, wanted, config.hidden_size, gathered);
    input = gathered;
  }
  if (std::is_sorted(order.begin(), order.end())) return RunHead(input, count, variants, logits);
  RunHead(input, count, variants, head_output);
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
  for (const DecoderLayer& layer : layers) bytes += ExpertBytes(layer.mlp, variant, full);
  return bytes;
}

// Chunks of full variants run first, so that a mixed step passes over the planes and over the
// source tensors once each.
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
  float* hidden = m.workspace.Get(Workspace::kHidden, CountTokens(sorted) * m.config.hidden_size);
  m.EmbedRows(sorted, hidden);
  for (size_t i = 0; i < m.layers.size(); ++i) m.RunLayer(static_cast<int64_t>(i), sorted, hidden);
  m.LogitsOf(hidden, sorted, order, logits);
  for (DecoderLayer& layer : m.layers) CountGrouped(layer.mlp, m.backend, m.expert_planes_read);
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  return {m.BytesRead(chunks), elapsed.count()};
}

}  // namespace lift
