// A whole pool's life by plans alone, under random schedules: nobody starves, nothing is promised
// twice, no step is empty, nothing that fits is left idle. LIFT_PLANNER_SCHEDULES sets how many.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <random>
#include <utility>

#include "server/engine/planner.h"
#include "server/engine/state_pool.h"

namespace lift {
namespace {

class Schedule {
 public:
  explicit Schedule(uint64_t seed) : rng_(seed) {
    block_tokens_ = Between(1, 5);
    total_ = Between(6, 18);
    limits_.max_batch = Between(1, 6);
    limits_.prefill_tokens = Between(1, 20);
    limits_.prefill_beside = Between(1, limits_.prefill_tokens);
    limits_.step_tokens = Between(2, 40);
    limits_.block_tokens = block_tokens_;
    limits_.total_blocks = total_;
    limits_.growth_tokens = Between(0, 8);
    limits_.aging_us = Between(0, 3) * 10;
    limits_.patience_us = Between(0, 4) * 5;
    limits_.quantum_tokens = Between(1, 6);
    limits_.request_cost = static_cast<double>(Between(0, 3));
    swap_total_ = Between(0, 12);
    limits_.swap_block_us = static_cast<double>(Between(0, 3));
    limits_.compute_token_us = static_cast<double>(Between(0, 4));
    limits_.prefix = [this](size_t i) {
      const PlanSequence& s = live_[i].s;
      const int64_t border = live_[i].swapped < s.prompt_tokens ? s.prompt_tokens : s.known_tokens;
      return PlanPrefix{.computed_tokens = live_[i].swapped,
                        .segment_tokens = border - live_[i].swapped,
                        .shared_blocks = 0};
    };
    arrivals_ = Between(1, 10);
  }

  int64_t swaps() const { return swaps_; }

  void Run() {
    while (arrivals_ > 0 || !live_.empty()) {
      ASSERT_LT(++now_, 4000) << "somebody starves";
      while (arrivals_ > 0 && (live_.empty() || Between(0, 3) == 0)) Arrive();
      Step();
      if (testing::Test::HasFatalFailure()) return;
    }
  }

 private:
  struct Life {
    PlanSequence s;
    int64_t end = 0;  // known tokens at which it is done
    int64_t since = 0;
    int64_t swapped = 0;  // tokens whose state is in the swap space
  };

  int64_t Between(int64_t low, int64_t high) {
    return low + static_cast<int64_t>(rng_() % static_cast<uint64_t>(high - low + 1));
  }

  void Arrive() {
    --arrivals_;
    const int64_t most = total_ * block_tokens_;
    Life life;
    life.s.arrival = ++arrived_;
    life.s.tenant = static_cast<int>(Between(0, 2));
    life.s.priority = static_cast<int>(Between(0, 2));
    life.s.prompt_tokens = life.s.known_tokens = Between(1, most / 2);
    life.end = life.s.prompt_tokens + Between(1, most / 2);
    life.s.most_tokens = life.end - 1;
    life.since = now_;
    life.s.swappable = Between(0, 3) > 0;
    life.s.age_us = 0;
    born_.push_back(now_);
    live_.push_back(life);
  }

  void Refresh() {
    held_ = swap_held_ = 0;
    for (Life& life : live_) {
      swap_held_ += BlocksFor(life.swapped, block_tokens_);
      PlanSequence& s = life.s;
      held_ += s.blocks;
      s.owned_blocks = s.blocks;
      s.age_us = now_ - born_[s.arrival - 1];
      s.wait_us = s.running ? 0 : now_ - life.since;
      const int64_t border = s.computed_tokens < s.prompt_tokens ? s.prompt_tokens : s.known_tokens;
      s.segment_tokens = border - s.computed_tokens;
      s.drafts = Between(0, 4);
    }
    ASSERT_LE(held_, total_);
    limits_.free_blocks = total_ - held_;
    limits_.free_swap_blocks = swap_total_ - swap_held_;
    limits_.credits = credits_;
  }

  static bool Decoding(const PlanSequence& s) {
    return s.computed_tokens >= s.prompt_tokens && s.known_tokens - s.computed_tokens == 1;
  }

  void Step() {
    Refresh();
    if (testing::Test::HasFatalFailure()) return;
    std::vector<PlanSequence> snapshot;
    for (const Life& life : live_) snapshot.push_back(life.s);
    const StepPlan plan = PlanStep(snapshot, limits_);
    // Empty only to make room for one who waited too long; then it runs in the next step.
    ASSERT_TRUE(!plan.chunks.empty() || (!plan.preempt.empty() && !was_empty_));
    was_empty_ = plan.chunks.empty();
    CheckWorkConserving(plan);
    Apply(plan);
    if (testing::Test::HasFatalFailure()) return;
    Advance(plan);
  }

  void CheckWorkConserving(const StepPlan& plan) {
    if (!plan.preempt.empty()) return;
    int64_t running = 0, prefilling = 0;
    for (const Life& life : live_) {
      running += life.s.running ? 1 : 0;
      prefilling += life.s.running && !Decoding(life.s) ? 1 : 0;
      // Every decoding sequence has its token.
      if (!life.s.running || !Decoding(life.s)) continue;
      const auto index = static_cast<size_t>(&life - live_.data());
      ASSERT_EQ(std::count_if(plan.chunks.begin(), plan.chunks.end(),
                              [&](const PlanChunk& c) { return c.sequence == index; }),
                1);
    }
    // With nobody running, somebody is admitted.
    ASSERT_TRUE(running > 0 || !plan.admit.empty());
    if (prefilling > 0 && limits_.step_tokens > running) {
      ASSERT_TRUE(std::any_of(plan.chunks.begin(), plan.chunks.end(),
                              [&](const PlanChunk& c) { return !Decoding(live_[c.sequence].s); }));
    }
  }

  // Worth it, within the space, and only of those that are preempted.
  void SwapOut(const StepPlan& plan) {
    for (const size_t i : plan.swap) {
      const PlanSequence& s = live_[i].s;
      ASSERT_TRUE(s.swappable && s.computed_tokens > 0);
      ASSERT_EQ(std::count(plan.preempt.begin(), plan.preempt.end(), i), 1);
      const int64_t blocks = BlocksFor(s.computed_tokens, block_tokens_);
      ASSERT_LT(2 * limits_.swap_block_us * static_cast<double>(blocks),
                limits_.compute_token_us * static_cast<double>(s.computed_tokens));
      live_[i].swapped = s.computed_tokens;
      swap_held_ += blocks;
    }
    ASSERT_LE(swap_held_, swap_total_) << "swap space over-committed";
    swaps_ += static_cast<int64_t>(plan.swap.size());
  }

  void Apply(const StepPlan& plan) {
    SwapOut(plan);
    for (const size_t i : plan.preempt) {
      PlanSequence& s = live_[i].s;
      ASSERT_TRUE(s.running);
      held_ -= s.blocks;
      s.running = false;
      s.blocks = s.computed_tokens = s.progress = 0;
      live_[i].since = now_;
    }
    for (const size_t i : plan.admit) {
      PlanSequence& s = live_[i].s;
      ASSERT_FALSE(s.running);
      s.running = true;
      s.computed_tokens = std::exchange(live_[i].swapped, 0);
      s.segment_tokens = (s.computed_tokens < s.prompt_tokens ? s.prompt_tokens : s.known_tokens) -
                         s.computed_tokens;
      s.blocks = BlocksFor(s.known_tokens, block_tokens_);
      held_ += s.blocks;
    }
    for (const PlanChunk& chunk : plan.chunks) {
      PlanSequence& s = live_[chunk.sequence].s;
      ASSERT_TRUE(s.running && chunk.tokens > 0 && chunk.tokens <= s.segment_tokens);
      ASSERT_TRUE(chunk.drafts >= 0 && chunk.drafts <= s.drafts);
      ASSERT_TRUE(chunk.drafts == 0 || Decoding(s));
      const int64_t end = s.computed_tokens + chunk.tokens + chunk.drafts;
      ASSERT_LE(end, std::max(s.most_tokens, s.known_tokens));
      const int64_t needed = std::max(s.blocks, BlocksFor(end, block_tokens_));
      held_ += needed - s.blocks;
      s.blocks = needed;
    }
    ASSERT_LE(held_, total_) << "over-committed";
    ASSERT_LE(std::count_if(live_.begin(), live_.end(), [](auto& x) { return x.s.running; }),
              limits_.max_batch);
  }

  void Advance(const StepPlan& plan) {
    int64_t prefill = 0, decodes = 0, drafts = 0;
    for (const PlanChunk& chunk : plan.chunks) {
      PlanSequence& s = live_[chunk.sequence].s;
      // What was just restored, or is read to its end, is budgeted like a prompt.
      const bool admitted = std::count(plan.admit.begin(), plan.admit.end(), chunk.sequence) > 0;
      (Decoding(s) && !admitted ? decodes : prefill) += chunk.tokens;
      drafts += chunk.drafts;
      s.computed_tokens += chunk.tokens;
      credits_[static_cast<size_t>(s.tenant)] -= static_cast<double>(Between(0, 2));
      if (s.computed_tokens < s.known_tokens) continue;
      const int64_t more = std::min(1 + (chunk.drafts > 0 ? Between(0, chunk.drafts) : 0),
                                    live_[chunk.sequence].end - s.known_tokens);
      s.known_tokens += more;
      s.computed_tokens += more - 1;
      s.progress += more;
    }
    ASSERT_LE(prefill, decodes > 0 ? limits_.prefill_beside : limits_.prefill_tokens);
    ASSERT_TRUE(drafts == 0 || prefill + decodes + drafts <= limits_.step_tokens);
    std::erase_if(live_, [](const Life& life) { return life.s.known_tokens >= life.end; });
  }

  std::mt19937_64 rng_;
  PlanLimits limits_;
  int64_t block_tokens_ = 1, total_ = 1, arrivals_ = 0, now_ = 0, held_ = 0;
  int64_t swap_total_ = 0, swap_held_ = 0, swaps_ = 0;
  uint64_t arrived_ = 0;
  bool was_empty_ = false;
  std::vector<int64_t> born_;
  std::vector<Life> live_;
  std::vector<double> credits_ = {0, 0, 0};
};

TEST(PlannerProperty, RandomSchedules) {
  const char* const asked = std::getenv("LIFT_PLANNER_SCHEDULES");
  const uint64_t schedules = asked != nullptr ? std::strtoull(asked, nullptr, 10) : 10000;
  int64_t swaps = 0;
  for (uint64_t seed = 0; seed < schedules; ++seed) {
    Schedule schedule(seed);
    schedule.Run();
    ASSERT_FALSE(HasFatalFailure()) << "schedule " << seed;
    swaps += schedule.swaps();
  }
  EXPECT_GT(swaps, static_cast<int64_t>(schedules / 10));  // it was tried
}

}  // namespace
}  // namespace lift
