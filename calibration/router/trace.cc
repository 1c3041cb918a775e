#include "calibration/router/trace.h"

#include <algorithm>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "calibration/eval/logit_stats.h"
#include "server/engine/sampler.h"

namespace lift {
namespace {

constexpr int64_t kPrefillChunk = 256;
constexpr size_t kScoredTogether = 4;  // answers whose logits are in memory at once

// One prompt while it is traced.
struct Answer {
  const RouterPrompt* prompt = nullptr;
  int64_t max_new_tokens = 0;
  std::vector<int32_t> blocks, saved;  // saved: where a recurrent model's state after the prompt is
  std::vector<int32_t> tokens;
  SamplingParams sampling;
  bool ended = false;
  std::vector<float> finest;  // [positions, vocab] logits
  PromptTrace trace;
  int64_t length() const { return static_cast<int64_t>(prompt->tokens.size()); }
};

class Tracer {
 public:
  Tracer(StepModel& model, ThreadPool& pool, const TraceOptions& options)
      : model_(model),
        pool_(pool),
        options_(options),
        vocab_(static_cast<size_t>(model.vocab_size())),
        finest_(static_cast<int>(model.variants().size()) - 1) {}

  void Run(std::span<Answer> batch) {
    PlaceBlocks(batch);
    for (Answer& answer : batch) ReadPrompt(answer);
    Decode(batch);
    for (Answer& answer : batch) {
      answer.trace.positions = std::max<int64_t>(static_cast<int64_t>(answer.tokens.size()) - 1, 0);
    }
    for (int variant = options_.first_variant; variant <= finest_; ++variant) {
      for (size_t first = 0; first < batch.size(); first += kScoredTogether) {
        const auto answers = batch.subspan(first, std::min(kScoredTogether, batch.size() - first));
        Score(answers, variant);
        if (options_.kept_state) ScoreKept(answers, variant);
      }
    }
  }

 private:
  // Each sequence gets blocks for its prompt and answer; recurrent state one more, to begin anew.
  void PlaceBlocks(std::span<Answer> batch) {
    int32_t next = 0;
    for (Answer& answer : batch) {
      const int64_t per = model_.block_tokens();
      const int64_t count =
          model_.reusable_state() ? (answer.length() + answer.max_new_tokens + per - 1) / per : 1;
      answer.blocks.resize(static_cast<size_t>(count));
      std::iota(answer.blocks.begin(), answer.blocks.end(), next);
      next += static_cast<int32_t>(count);
      if (!model_.reusable_state()) answer.saved = {next++};
    }
    LIFT_CHECK(next <= model_.num_blocks());
  }

  void ReadPrompt(Answer& answer) {
    const std::span<const int32_t> tokens = answer.prompt->tokens;
    SequenceChunk chunk;
    chunk.blocks = answer.blocks;
    chunk.variant = finest_;
    chunk.prefill = ReadAsPrompt(answer.length());
    for (size_t at = 0; at < tokens.size();) {
      chunk.tokens = tokens.subspan(at, std::min<size_t>(kPrefillChunk, tokens.size() - at));
      chunk.position = static_cast<int64_t>(at);
      at += chunk.tokens.size();
      const bool last = at == tokens.size();
      chunk.logits = last ? SequenceChunk::Logits::kLast : SequenceChunk::Logits::kNone;
      const SequenceChunk step[] = {chunk,
                                    LookAtLast(tokens, answer.blocks, options_.first_variant)};
      const bool probe = last && model_.reusable_state();
      model_.Step(std::span(step).first(probe ? 2 : 1), logits_);
    }
    if (!answer.saved.empty()) model_.CopyState(answer.blocks[0], answer.saved[0]);
    const auto fine = std::span<const float>(logits_).first(vocab_);
    answer.trace.prefill = router::SignalsFromLogits(fine, answer.length());
    if (logits_.size() > vocab_) {
      answer.trace.prefill.probe_kl =
          router::KlOfLogits(fine, std::span(logits_).subspan(vocab_, vocab_));
    }
    Draw(answer, fine);
  }

  void Draw(Answer& answer, std::span<const float> logits) {
    const auto step = static_cast<int64_t>(answer.tokens.size());
    const int32_t id = Sample(logits, answer.sampling, {}, step).id;
    if (id >= 0) answer.tokens.push_back(id);
    const auto& stops = options_.stop_ids;
    answer.ended = id < 0 || step + 1 == answer.max_new_tokens ||
                   std::find(stops.begin(), stops.end(), id) != stops.end();
  }

  // All answers of the batch, a token each a step, until the last one ends.
  void Decode(std::span<Answer> batch) {
    std::vector<SequenceChunk> chunks;
    std::vector<Answer*> running;
    for (;;) {
      chunks.clear();
      running.clear();
      for (Answer& answer : batch) {
        if (answer.ended) continue;
        SequenceChunk& chunk = chunks.emplace_back();
        chunk.tokens = std::span(answer.tokens).last(1);
        chunk.position = answer.length() + static_cast<int64_t>(answer.tokens.size()) - 1;
        chunk.blocks = answer.blocks;
        chunk.variant = finest_;
        running.push_back(&answer);
      }
      if (running.empty()) return;
      model_.Step(chunks, logits_);
      for (size_t i = 0; i < running.size(); ++i) {
        const auto row = std::span(logits_).subspan(i * vocab_, vocab_);
        running[i]->finest.insert(running[i]->finest.end(), row.begin(), row.end());
        Draw(*running[i], row);
      }
    }
  }

  // What the finest variant makes of an answer is known from decoding it.
  void Score(std::span<Answer> answers, int variant) {
    if (variant == finest_) {
      for (Answer& answer : answers) ScoreRows(answer, answer.finest);
      return;
    }
    Forward(answers, variant);
    size_t row = 0;
    for (Answer& answer : answers) {
      const auto rows = static_cast<size_t>(answer.trace.positions);
      ScoreRows(answer, std::span(logits_).subspan(row * vocab_, rows * vocab_));
      row += rows;
    }
  }

  // The state is as the prompt left it.
  void BeginAnew(const Answer& answer) {
    if (!answer.saved.empty()) model_.CopyState(answer.saved[0], answer.blocks[0]);
  }

  // Positions [begin, end) of an answer, all of them scored.
  SequenceChunk Part(const Answer& answer, int64_t begin, int64_t end, int variant) const {
    SequenceChunk chunk;
    chunk.tokens = std::span(answer.tokens)
                       .subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
    chunk.position = answer.length() + begin;
    chunk.blocks = answer.blocks;
    chunk.variant = variant;
    chunk.logits = SequenceChunk::Logits::kAll;
    chunk.prefill = !options_.exact;
    return chunk;
  }

  void Forward(std::span<Answer> answers, int variant) {
    std::vector<SequenceChunk> chunks;
    for (Answer& answer : answers) {
      if (answer.trace.positions == 0) continue;
      BeginAnew(answer);
      chunks.push_back(Part(answer, 0, answer.trace.positions, variant));
    }
    if (!chunks.empty()) model_.Step(chunks, logits_);
  }

  // Raised from the variant to the finest half-way, the state before it kept as it is.
  void ScoreKept(std::span<Answer> answers, int variant) {
    std::vector<SequenceChunk> written, raised;
    for (Answer& answer : answers) {
      const PromptTrace& trace = answer.trace;
      if (trace.half() == 0) continue;
      BeginAnew(answer);
      written.push_back(Part(answer, 0, trace.half(), variant));
      written.back().logits = SequenceChunk::Logits::kNone;
      raised.push_back(Part(answer, trace.half(), trace.positions, finest_));
    }
    if (written.empty()) return;
    model_.Step(written, logits_);
    model_.Step(raised, logits_);
    size_t row = 0;
    for (Answer& answer : answers) {
      PromptTrace& trace = answer.trace;
      const auto half = static_cast<size_t>(trace.half()),
                 count = static_cast<size_t>(trace.positions) - half;
      if (half == 0) {
        trace.kept.push_back(0);
        continue;
      }
      const auto fine = std::span(answer.finest).subspan(half * vocab_, count * vocab_);
      const auto rows = std::span(logits_).subspan(row * vocab_, count * vocab_);
      std::vector<double> kl(count);
      pool_.ParallelFor(static_cast<int64_t>(count), 1, [&](int64_t begin, int64_t end, int) {
        for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
          const auto a = fine.subspan(i * vocab_, vocab_), b = rows.subspan(i * vocab_, vocab_);
          kl[i] = KlDivergence(a, ComputeLogitStats(a), b, ComputeLogitStats(b));
        }
      });
      const double sum = std::accumulate(kl.begin(), kl.end(), 0.0);
      trace.kept.push_back(static_cast<float>(sum / static_cast<double>(count)));
      row += count;
    }
  }

  void ScoreRows(Answer& answer, std::span<const float> rows) {
    PromptTrace& trace = answer.trace;
    const auto count = static_cast<size_t>(trace.positions);
    const size_t base = trace.kl.size();
    trace.kl.resize(base + count);
    trace.entropy.resize(base + count);
    trace.agrees.resize(base + count);
    trace.draws.resize(base + count);
    pool_.ParallelFor(static_cast<int64_t>(count), 1, [&](int64_t begin, int64_t end, int) {
      for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
        const auto fine = std::span(answer.finest).subspan(i * vocab_, vocab_);
        const auto row = rows.subspan(i * vocab_, vocab_);
        const LogitStats fine_stats = ComputeLogitStats(fine), stats = ComputeLogitStats(row);
        trace.kl[base + i] = static_cast<float>(KlDivergence(fine, fine_stats, row, stats));
        trace.entropy[base + i] =
            static_cast<float>(router::SignalsFromLogits(row, 1).last_entropy);
        trace.agrees[base + i] = fine_stats.best == stats.best;
        trace.draws[base + i] = Sample(row, answer.sampling, {}, static_cast<int64_t>(i) + 1).id;
      }
    });
  }

  StepModel& model_;
  ThreadPool& pool_;
  const TraceOptions& options_;
  size_t vocab_;
  int finest_;
  std::vector<float> logits_;
};

int64_t NewTokens(const RouterPrompt& prompt, const TraceOptions& options) {
  return prompt.max_new_tokens > 0 ? std::min(prompt.max_new_tokens, options.max_new_tokens)
                                   : options.max_new_tokens;
}

absl::Status Check(const StepModel& model, std::span<const RouterPrompt> prompts,
                   const TraceOptions& options) {
  for (size_t i = 0; i < prompts.size(); ++i) {
    const auto tokens = static_cast<int64_t>(prompts[i].tokens.size());
    if (tokens + NewTokens(prompts[i], options) <= model.max_context()) continue;
    return absl::InvalidArgumentError(absl::StrCat("prompt ", i + 1, " has ", tokens,
                                                   " tokens; the context of ", model.max_context(),
                                                   " does not hold it and its answer"));
  }
  return absl::OkStatus();
}

}  // namespace

double PromptTrace::MeanKl(size_t variant) const {
  const auto first = kl.begin() + static_cast<int64_t>(variant) * positions;
  return std::accumulate(first, first + positions, 0.0) / static_cast<double>(positions);
}

double PromptTrace::Agreement(size_t variant) const {
  const auto first = agrees.begin() + static_cast<int64_t>(variant) * positions;
  return std::accumulate(first, first + positions, 0.0) / static_cast<double>(positions);
}

int64_t TraceTokens(std::span<const RouterPrompt> prompts, const TraceOptions& options) {
  // Batches are made of neighbours: the most that any of them takes, rounded up per sequence.
  const auto batch = static_cast<size_t>(std::max<int64_t>(1, options.batch));
  int64_t most = 0;
  for (size_t first = 0; first < prompts.size(); first += batch) {
    int64_t tokens = 0;
    for (const RouterPrompt& prompt :
         prompts.subspan(first, std::min(batch, prompts.size() - first))) {
      tokens += static_cast<int64_t>(prompt.tokens.size()) + NewTokens(prompt, options) + 32;
    }
    most = std::max(most, tokens);
  }
  return most;
}

absl::StatusOr<std::vector<PromptTrace>> CollectTraces(StepModel& model, ThreadPool& pool,
                                                       std::span<const RouterPrompt> prompts,
                                                       const TraceOptions& options) {
  LIFT_RETURN_IF_ERROR(Check(model, prompts, options));
  Tracer tracer(model, pool, options);
  std::vector<PromptTrace> traces;
  const auto size = static_cast<size_t>(std::max<int64_t>(1, options.batch));
  for (size_t first = 0; first < prompts.size(); first += size) {
    std::vector<Answer> batch(std::min(size, prompts.size() - first));
    for (size_t i = 0; i < batch.size(); ++i) {
      Answer& answer = batch[i];
      const RouterPrompt& prompt = prompts[first + i];
      answer.prompt = &prompt;
      answer.max_new_tokens = NewTokens(prompt, options);
      answer.sampling.temperature = options.temperature;
      answer.sampling.seed = options.seed + first + i;
      answer.trace.kind = prompt.kind;
      answer.trace.source = prompt.source;
      answer.trace.language = prompt.language;
      answer.trace.text = router::ExtractTextFeatures(prompt.text, prompt.turns);
    }
    tracer.Run(batch);
    for (Answer& answer : batch) {
      if (answer.trace.positions > 0) traces.push_back(std::move(answer.trace));
    }
    if (options.progress) {
      options.progress(static_cast<int64_t>(first + batch.size()),
                       static_cast<int64_t>(prompts.size()));
    }
  }
  return traces;
}

}  // namespace lift
