// The loop's part of guessing ahead: whom to guess for, the guesses, and what they were worth.
#include <algorithm>
#include <bit>

#include "server/engine/engine_loop.h"

namespace lift {
namespace {

constexpr size_t kBatchSizes = 8;  // 1, 2, 3-4, 5-8, ... sequences decoding

bool Decodes(const LiveRequest& request) {
  return request.running && request.decided && !request.finished &&
         static_cast<int64_t>(request.tokens.size()) - request.computed == 1;
}

}  // namespace

DraftControl& EngineLoop::Control(bool looked_up, int64_t decoding) {
  if (controls_.empty()) {
    controls_.assign(2 * kBatchSizes, DraftControl(options_.router.most_drafts));
  }
  const auto size = static_cast<size_t>(
      std::bit_width(static_cast<uint64_t>(std::max<int64_t>(decoding, 1) - 1)));
  return controls_[(looked_up ? 0 : kBatchSizes) + std::min(size, kBatchSizes - 1)];
}

void EngineLoop::WantDrafts() {
  if (options_.router.most_drafts == 0 || !model_.reusable_state()) return;
  int64_t decoding = 0;
  for (const LiveRequest* request : requests_) decoding += Decodes(*request) ? 1 : 0;
  for (LiveRequest* request : requests_) {
    request->drafts_wanted = 0;
    request->drafts.clear();
    if (!Decodes(*request)) continue;
    request->drafts = LookUpDraft(request->tokens, Control(true, decoding).length());
    request->drafts_looked_up = !request->drafts.empty();
    if (request->drafts_looked_up) {
      request->drafts_wanted = static_cast<int64_t>(request->drafts.size());
      continue;
    }
    const router::DraftPlan& plan = draft_plans_[static_cast<size_t>(request->variant)];
    if (plan.variant < 0) continue;
    const int64_t length = Control(false, decoding).length();
    request->drafts_wanted = plan.known && length > 0 ? plan.tokens : length;
  }
}

// Fills in the chunks' guesses: request.drafts becomes the last known token and what may follow.
void EngineLoop::Guess(StepPlan& plan) {
  std::vector<PlanChunk*> coarse;
  for (PlanChunk& chunk : plan.chunks) {
    LiveRequest& request = *requests_[chunk.sequence];
    if (chunk.drafts == 0) {
      request.drafts.clear();
      continue;
    }
    request.drafts.resize(request.drafts_looked_up ? static_cast<size_t>(chunk.drafts) : 0);
    request.drafts.insert(request.drafts.begin(), request.tokens.back());
    if (!request.drafts_looked_up) coarse.push_back(&chunk);
  }
  GuessByCoarser(coarse);
}

void EngineLoop::GuessByCoarser(std::span<PlanChunk*> chunks) {
  const auto vocab = static_cast<size_t>(model_.vocab_size());
  for (int64_t ahead = 0;; ++ahead) {
    std::vector<SequenceChunk> step;
    std::vector<LiveRequest*> members;
    for (const PlanChunk* chunk : chunks) {
      LiveRequest& request = *requests_[chunk->sequence];
      if (ahead >= chunk->drafts) continue;
      step.push_back({.tokens = std::span<const int32_t>(request.drafts).last(1),
                      .position = request.computed + ahead,
                      .blocks = request.table.blocks(),
                      .variant = draft_plans_[static_cast<size_t>(request.variant)].variant});
      members.push_back(&request);
    }
    if (step.empty()) return;
    model_.Step(step, draft_logits_);
    for (size_t i = 0; i < members.size(); ++i) {
      const auto row = std::span<const float>(draft_logits_).subspan(i * vocab, vocab);
      // No guess where the coarser variant has none: token 0 is as wrong as any other.
      const int32_t id = std::max(0, members[i]->SampleAhead(row, ahead).id);
      members[i]->drafts.push_back(id);
    }
  }
}

void EngineLoop::JudgeGuesses(const StepPlan& plan, int64_t delivered, double seconds) {
  if (options_.router.most_drafts == 0) return;
  int64_t decoding = 0, looked_up = 0, drafted = 0;
  for (const PlanChunk& chunk : plan.chunks) {
    const LiveRequest& request = *requests_[chunk.sequence];
    // Steps that also read prompts say nothing about decoding.
    if (chunk.tokens > 1 || !request.decided) return;
    ++decoding;
    (request.drafts_looked_up ? looked_up : drafted) += chunk.drafts;
  }
  if (looked_up + drafted == 0) {
    Control(true, decoding).OnPlain(delivered, seconds);
    return Control(false, decoding).OnPlain(delivered, seconds);
  }
  // Steps that mix both sources are judged by the dearer one.
  const bool cheap = drafted == 0;
  Control(cheap, decoding).OnDrafted(looked_up + drafted, delivered - decoding, delivered, seconds);
}

}  // namespace lift
