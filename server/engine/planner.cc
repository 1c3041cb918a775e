#include "server/engine/planner.h"

#include <algorithm>

#include "server/engine/state_pool.h"

namespace lift {
namespace {

bool IsDecoding(const PlanSequence& s) {
  return s.computed_tokens >= s.prompt_tokens && s.known_tokens - s.computed_tokens == 1;
}

// Tokens up to the next border of precision.
int64_t SegmentTokens(const PlanSequence& s) {
  const int64_t end = s.computed_tokens < s.prompt_tokens ? s.prompt_tokens : s.known_tokens;
  return end - s.computed_tokens;
}

class Planner {
 public:
  Planner(std::span<const PlanSequence> sequences, const PlanLimits& limits)
      : sequences_(sequences),
        limits_(limits),
        free_(limits.free_blocks),
        budget_(limits.prefill_tokens) {}

  StepPlan Run() {
    Order();
    FindBlocksForDecoding();
    for (const size_t i : running_) {
      if (IsDecoding(sequences_[i])) plan_.chunks.push_back({i, 1});
    }
    for (const size_t i : running_) {
      if (!IsDecoding(sequences_[i])) AddPrefill(i);
    }
    if (plan_.preempt.empty()) Admit();
    return std::move(plan_);
  }

 private:
  void Order() {
    for (size_t i = 0; i < sequences_.size(); ++i) {
      (sequences_[i].running ? running_ : waiting_).push_back(i);
    }
    const auto before = [&](size_t a, size_t b) {
      const PlanSequence &x = sequences_[a], &y = sequences_[b];
      return x.priority != y.priority ? x.priority > y.priority : x.arrival < y.arrival;
    };
    std::sort(running_.begin(), running_.end(), before);
    std::sort(waiting_.begin(), waiting_.end(), before);
  }

  int64_t MissingBlocks(const PlanSequence& s) const {
    if (!IsDecoding(s)) return 0;
    return std::max<int64_t>(0, BlocksFor(s.known_tokens, limits_.block_tokens) - s.blocks);
  }

  void PreemptLast() {
    free_ += sequences_[running_.back()].blocks;
    plan_.preempt.push_back(running_.back());
    running_.pop_back();
  }

  void FindBlocksForDecoding() {
    for (size_t i = 0; i < running_.size(); ++i) {
      const int64_t missing = MissingBlocks(sequences_[running_[i]]);
      while (missing > free_ && running_.size() > i + 1) PreemptLast();
      if (missing > free_) return PreemptLast();
      free_ -= missing;
    }
  }

  void AddPrefill(size_t i) {
    const int64_t tokens = std::min(budget_, SegmentTokens(sequences_[i]));
    if (tokens <= 0) return;
    budget_ -= tokens;
    plan_.chunks.push_back({i, tokens});
  }

  void Admit() {
    auto running = static_cast<int64_t>(running_.size());
    for (const size_t i : waiting_) {
      const int64_t blocks = BlocksFor(sequences_[i].known_tokens, limits_.block_tokens);
      if (budget_ == 0 || running == limits_.max_batch || blocks + running > free_) return;
      free_ -= blocks;
      ++running;
      plan_.admit.push_back(i);
      AddPrefill(i);
    }
  }

  std::span<const PlanSequence> sequences_;
  const PlanLimits& limits_;
  int64_t free_, budget_;
  std::vector<size_t> running_, waiting_;  // in order of service
  StepPlan plan_;
};

}  // namespace

StepPlan PlanStep(std::span<const PlanSequence> sequences, const PlanLimits& limits) {
  return Planner(sequences, limits).Run();
}

}  // namespace lift
