#include "tests/bench/bench_model.h"

#include <algorithm>
#include <cstdio>
#include <numeric>

#include "server/model/model_layout.h"
#include "server/model/transformer.h"
#include "tests/bench/read_loop.h"

namespace lift::bench {
namespace {

constexpr int64_t kBlockTokens = 16;

// Token ids all over the vocabulary: what they say does not matter for the time.
std::vector<int32_t> SpreadTokens(int64_t count, int64_t vocab_size) {
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  for (size_t i = 0; i < tokens.size(); ++i) {
    tokens[i] = static_cast<int32_t>((i * 7919 + 17) % static_cast<size_t>(vocab_size));
  }
  return tokens;
}

int64_t BlocksFor(const ModelConfig& config, int64_t tokens) {
  return layout::StateBlocks(config, tokens, kBlockTokens);
}

// One token for each of `batch` sequences that already hold `context` tokens. Borrows from itself:
// not to be moved.
struct DecodeStep {
  // Row i decodes at variants[i modulo their number].
  DecodeStep(const Transformer& model, std::span<const int> variants, int64_t batch,
             int64_t context)
      : tokens(SpreadTokens(batch, model.vocab_size())) {
    const auto each = static_cast<size_t>(BlocksFor(model.weights().config(), context + 1));
    blocks.resize(static_cast<size_t>(batch) * each);
    std::iota(blocks.begin(), blocks.end(), 0);
    for (size_t i = 0; i < tokens.size(); ++i) {
      SequenceChunk& chunk = chunks.emplace_back();
      chunk.tokens = std::span(tokens).subspan(i, 1);
      chunk.position = context;
      chunk.blocks = std::span(blocks).subspan(i * each, each);
      chunk.variant = variants[i % variants.size()];
    }
  }
  DecodeStep(const DecodeStep&) = delete;
  std::vector<int32_t> tokens, blocks;
  std::vector<SequenceChunk> chunks;
};

// Makes every cached key and value a small number in any format: untouched memory would all be one
// page of zeros, which costs neither memory nor bandwidth.
void FillState(Transformer& model) { model.FillState(std::byte{0x3C}); }

DecodePoint Decode(Transformer& model, std::span<const int> variants, int64_t batch,
                   int64_t context, double read_bandwidth, double seconds) {
  const DecodeStep step(model, variants, batch, context);
  std::vector<float> logits;
  StepStats stats;
  const double mean = MeanSeconds(seconds, [&] { stats = model.Step(step.chunks, logits); });
  const double bytes = static_cast<double>(stats.weight_bytes_read);
  return {
      variants.size() > 1 ? "mixed" : model.variants()[static_cast<size_t>(variants.front())].name,
      batch,
      context,
      static_cast<double>(batch) / mean,
      bytes / static_cast<double>(batch),
      bytes / mean / read_bandwidth};
}

PrefillPoint Prefill(Transformer& model, int64_t count, double seconds) {
  const std::vector<int32_t> tokens = SpreadTokens(count, model.vocab_size());
  std::vector<int32_t> blocks(static_cast<size_t>(BlocksFor(model.weights().config(), count)));
  std::iota(blocks.begin(), blocks.end(), 0);
  SequenceChunk chunk;
  chunk.tokens = tokens;
  chunk.blocks = blocks;
  chunk.variant = static_cast<int>(model.variants().size()) - 1;
  chunk.prefill = true;
  std::vector<float> logits;
  const double step =
      MeanSeconds(seconds, [&] { model.Step(std::span<const SequenceChunk>(&chunk, 1), logits); });
  return {count, static_cast<double>(count) / step};
}

}  // namespace

absl::StatusOr<ModelReport> BenchModel(std::shared_ptr<const Weights> weights, Backend& backend,
                                       double read_bandwidth, const ModelPlan& plan) {
  const int64_t limit = weights->config().max_context;
  int64_t blocks = 1;
  for (const int64_t n : plan.prefills)
    blocks = std::max(blocks, BlocksFor(weights->config(), std::min(n, limit)));
  for (const int64_t context : plan.contexts) {
    for (const int64_t batch : plan.batches) {
      blocks =
          std::max(blocks, batch * BlocksFor(weights->config(), std::min(context, limit - 1) + 1));
    }
  }
  Transformer::Options options;
  options.block_tokens = kBlockTokens;
  options.kv_format = plan.kv_format;
  options.num_blocks = blocks;
  LIFT_ASSIGN_OR_RETURN(auto model, Transformer::Create(weights, backend, options));
  FillState(*model);
  ModelReport report;
  std::vector<std::vector<int>> mixes;
  for (const int variant : plan.variants) mixes.push_back({variant});
  if (plan.mixed) mixes.push_back(plan.variants);
  for (const std::vector<int>& variants : mixes) {
    for (const int64_t context : plan.contexts) {
      for (const int64_t batch : plan.batches) {
        const DecodePoint& point = report.decode.emplace_back(Decode(
            *model, variants, batch, std::min(context, limit - 1), read_bandwidth, plan.seconds));
        std::fprintf(stderr, "decode %s, batch %lld, context %lld: %.1f tokens/s\n",
                     point.variant.c_str(), static_cast<long long>(point.batch),
                     static_cast<long long>(point.context), point.tokens_per_second);
      }
    }
  }
  for (const int64_t n : plan.prefills) {
    const PrefillPoint& point =
        report.prefill.emplace_back(Prefill(*model, std::min(n, limit), plan.seconds));
    std::fprintf(stderr, "prefill of %lld: %.1f tokens/s\n", static_cast<long long>(point.tokens),
                 point.tokens_per_second);
  }
  // Prompts were read with the finest variant.
  const int finest = static_cast<int>(weights->variants().size()) - 1;
  report.predicted_resident_bytes =
      weights->VariantBytes(finest) + model->state_bytes() + model->workspace_bytes();
  report.resident_bytes = ResidentBytes();
  return report;
}

absl::StatusOr<std::vector<Phase>> ProfileDecode(std::shared_ptr<const Weights> weights,
                                                 Backend& backend, const ModelPlan& plan) {
  const int64_t batch = plan.batches.front();
  const int64_t context = std::min(plan.contexts.front(), weights->config().max_context - 1);
  Transformer::Options options;
  options.block_tokens = kBlockTokens;
  options.kv_format = plan.kv_format;
  options.num_blocks = batch * BlocksFor(weights->config(), context + 1);
  const auto profiler = MakeProfilingBackend(backend);
  LIFT_ASSIGN_OR_RETURN(auto model, Transformer::Create(weights, *profiler, options));
  FillState(*model);
  const DecodeStep step(*model, std::span(plan.variants).first(1), batch, context);
  std::vector<float> logits;
  model->Step(step.chunks, logits);  // warms caches
  profiler->Reset();
  const double start = Now();
  int steps = 0;
  for (; steps == 0 || Now() - start < plan.seconds; ++steps) model->Step(step.chunks, logits);
  const double elapsed = Now() - start;
  std::vector<Phase> phases = profiler->phases();
  double inside = 0;
  for (Phase& phase : phases) {
    inside += phase.seconds;
    phase.calls /= steps;
    phase.bytes /= steps;
    phase.seconds /= steps;
    phase.multiply_adds /= steps;
  }
  phases.push_back({"everything else", 1, 0, (elapsed - inside) / steps});
  return phases;
}

}  // namespace lift::bench
