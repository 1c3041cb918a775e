#include "server/engine/planner.h"

#include <algorithm>
#include <map>

#include "server/engine/state_pool.h"

namespace lift {
namespace {

bool IsDecoding(const PlanSequence& s) {
  return s.computed_tokens >= s.prompt_tokens && s.known_tokens - s.computed_tokens == 1;
}

// Hands out the sequences of several tenants in order of service, one by one.
class Turns {
 public:
  // held[t]: sequences that tenant t is charged for already.
  Turns(std::span<const PlanSequence> sequences, const PlanLimits& limits,
        const std::vector<size_t>& members, const std::vector<int64_t>& held)
      : sequences_(sequences) {
    for (const size_t i : members) tenants_[sequences[i].tenant].queue.push_back(i);
    for (auto& [tenant, t] : tenants_) {
      std::sort(t.queue.begin(), t.queue.end(), [&](size_t a, size_t b) {
        const int64_t x = Level(sequences[a], limits), y = Level(sequences[b], limits);
        return x != y ? x > y : sequences[a].arrival < sequences[b].arrival;
      });
      const auto index = static_cast<size_t>(tenant);
      const double credit = index < limits.credits.size() ? limits.credits[index] : 0;
      t.credit = credit - limits.request_cost * static_cast<double>(held[index]);
      heap_.push_back(&t);
    }
    std::make_heap(heap_.begin(), heap_.end(), Later{this});
  }

  bool empty() const { return heap_.empty(); }
  size_t Front() const { return heap_.front()->queue[heap_.front()->next]; }
  void Pop(double cost) {
    std::pop_heap(heap_.begin(), heap_.end(), Later{this});
    Tenant& t = *heap_.back();
    t.credit -= cost;
    if (++t.next == t.queue.size()) {
      heap_.pop_back();
    } else {
      std::push_heap(heap_.begin(), heap_.end(), Later{this});
    }
  }

 private:
  struct Tenant {
    double credit = 0;
    std::vector<size_t> queue;
    size_t next = 0;
  };
  struct Later {
    const Turns* turns;
    bool operator()(const Tenant* a, const Tenant* b) const {
      if (a->credit != b->credit) return a->credit < b->credit;
      return turns->sequences_[a->queue[a->next]].arrival >
             turns->sequences_[b->queue[b->next]].arrival;
    }
  };
  static int64_t Level(const PlanSequence& s, const PlanLimits& limits) {
    return s.priority + (limits.aging_us > 0 ? s.age_us / limits.aging_us : 0);
  }

  std::span<const PlanSequence> sequences_;
  std::map<int, Tenant> tenants_;
  std::vector<Tenant*> heap_;
};

class Planner {
 public:
  Planner(std::span<const PlanSequence> sequences, const PlanLimits& limits)
      : sequences_(sequences),
        limits_(limits),
        free_(limits.free_blocks),
        free_swap_(limits.free_swap_blocks) {}

  StepPlan Run() {
    Order();
    FindBlocksForDecoding();
    int64_t decoding = 0;
    for (const size_t i : running_) {
      if (!IsDecoding(sequences_[i])) continue;
      plan_.chunks.push_back({i, 1, 0});
      ++decoding;
    }
    budget_ = decoding > 0 ? limits_.prefill_beside : limits_.prefill_tokens;
    budget_ =
        std::min(budget_, std::max<int64_t>(decoding > 0 ? 0 : 1, limits_.step_tokens - decoding));
    for (const size_t i : running_) {
      if (!IsDecoding(sequences_[i])) AddPrefill(i, sequences_[i].segment_tokens);
    }
    if (plan_.preempt.empty()) Admit();
    AddDrafts(decoding);
    return std::move(plan_);
  }

 private:
  void Order() {
    int tenants = 1;
    for (const PlanSequence& s : sequences_) tenants = std::max(tenants, s.tenant + 1);
    held_.assign(static_cast<size_t>(tenants), 0);
    std::vector<size_t> members;
    for (size_t i = 0; i < sequences_.size(); ++i) {
      (sequences_[i].running ? members : waiting_).push_back(i);
    }
    for (Turns turns(sequences_, limits_, members, held_); !turns.empty();) {
      running_.push_back(turns.Front());
      turns.Pop(limits_.request_cost);
    }
    for (const size_t i : members) ++held_[Tenant(i)];
  }

  size_t Tenant(size_t i) const { return static_cast<size_t>(sequences_[i].tenant); }

  int64_t MissingBlocks(const PlanSequence& s) const {
    if (!IsDecoding(s)) return 0;
    return std::max<int64_t>(0, BlocksFor(s.known_tokens, limits_.block_tokens) - s.blocks);
  }

  // Of the running sequences at `place` in order.
  void Preempt(size_t place) {
    const size_t i = running_[place];
    running_.erase(running_.begin() + static_cast<std::ptrdiff_t>(place));
    free_ += sequences_[i].owned_blocks;
    // Blocks that only preempted ones shared are free, too.
    if (running_.size() == 1) {
      free_ = std::max(free_, limits_.total_blocks - sequences_[running_[0]].blocks);
    }
    --held_[Tenant(i)];
    plan_.preempt.push_back(i);
    SwapIfCheaper(i);
  }

  void SwapIfCheaper(size_t i) {
    const PlanSequence& s = sequences_[i];
    const int64_t blocks = BlocksFor(s.computed_tokens, limits_.block_tokens);
    if (!s.swappable || blocks == 0 || blocks > free_swap_) return;
    const int64_t lost = std::min(s.computed_tokens, s.owned_blocks * limits_.block_tokens);
    const double again = limits_.compute_token_us * static_cast<double>(lost);
    if (2 * limits_.swap_block_us * static_cast<double>(blocks) >= again) return;
    free_swap_ -= blocks;
    plan_.swap.push_back(i);
  }

  void FindBlocksForDecoding() {
    for (size_t k = 0; k < running_.size(); ++k) {
      const int64_t missing = MissingBlocks(sequences_[running_[k]]);
      while (missing > free_ && running_.size() > k + 1) Preempt(running_.size() - 1);
      if (missing > free_) return Preempt(k);
      free_ -= missing;
    }
  }

  void AddPrefill(size_t i, int64_t segment_tokens) {
    const int64_t tokens = std::min(budget_, segment_tokens);
    if (tokens <= 0) return;
    budget_ -= tokens;
    plan_.chunks.push_back({i, tokens, 0});
  }

  // Blocks the running sequences are expected to ask for.
  int64_t ExpectedGrowth(const PlanSequence& s) const {
    const int64_t end = std::min(s.most_tokens, s.known_tokens + limits_.growth_tokens);
    const int64_t held = std::max(s.blocks, BlocksFor(s.known_tokens, limits_.block_tokens));
    return std::max<int64_t>(s.known_tokens < s.most_tokens ? 1 : 0,
                             BlocksFor(end, limits_.block_tokens) - held);
  }

  void Admit() {
    int64_t reserved = 0;
    for (const size_t i : running_) reserved += ExpectedGrowth(sequences_[i]);
    for (Turns turns(sequences_, limits_, waiting_, held_); !turns.empty();) {
      const size_t i = turns.Front();
      const PlanSequence& s = sequences_[i];
      if (budget_ == 0) return;
      PlanPrefix prefix{.computed_tokens = 0, .segment_tokens = s.segment_tokens};
      if (limits_.prefix) prefix = limits_.prefix(i);
      const int64_t blocks = BlocksFor(s.known_tokens, limits_.block_tokens) - prefix.shared_blocks;
      const bool alone = running_.empty() && plan_.admit.empty();
      const bool slot = Running() < limits_.max_batch;
      if (!slot || blocks > free_ || (!alone && blocks + reserved > free_)) return Displace(i);
      free_ -= blocks;
      reserved += ExpectedGrowth(s);
      plan_.admit.push_back(i);
      AddPrefill(i, prefix.segment_tokens);
      turns.Pop(limits_.request_cost);
    }
  }

  int64_t Running() const { return static_cast<int64_t>(running_.size() + plan_.admit.size()); }

  // Makes room for one who waited too long; it is admitted in a later step.
  void Displace(size_t waiting) {
    const PlanSequence& s = sequences_[waiting];
    if (limits_.patience_us <= 0 || s.wait_us < limits_.patience_us) return;
    for (size_t place = running_.size(); place-- > 0;) {
      const PlanSequence& victim = sequences_[running_[place]];
      const bool more = victim.tenant != s.tenant &&
                        held_[Tenant(running_[place])] >= held_[static_cast<size_t>(s.tenant)] + 2;
      const bool less_important = victim.tenant == s.tenant && victim.priority < s.priority;
      if (victim.progress < limits_.quantum_tokens || !(more || less_important)) continue;
      const size_t i = running_[place];
      std::erase_if(plan_.chunks, [&](const PlanChunk& chunk) { return chunk.sequence == i; });
      return Preempt(place);
    }
  }

  // Only what nobody else wants: spare blocks (none that are expected to be asked for) and budget.
  void AddDrafts(int64_t decoding) {
    if (!plan_.preempt.empty()) return;
    int64_t room = limits_.step_tokens;
    for (const PlanChunk& chunk : plan_.chunks) room -= chunk.tokens;
    for (size_t c = 0; c < static_cast<size_t>(decoding); ++c) {
      PlanChunk& chunk = plan_.chunks[c];
      const PlanSequence& s = sequences_[chunk.sequence];
      const int64_t held = std::max(s.blocks, BlocksFor(s.known_tokens, limits_.block_tokens));
      const int64_t covered = (held + free_) * limits_.block_tokens - s.known_tokens;
      chunk.drafts =
          std::max<int64_t>(0, std::min({s.drafts, room, covered, s.most_tokens - s.known_tokens}));
      room -= chunk.drafts;
      free_ -= std::max<int64_t>(
          0, BlocksFor(s.known_tokens + chunk.drafts, limits_.block_tokens) - held);
    }
  }

  std::span<const PlanSequence> sequences_;
  const PlanLimits& limits_;
  int64_t free_, free_swap_, budget_ = 0;
  std::vector<size_t> running_;  // in order of service
  std::vector<size_t> waiting_;
  std::vector<int64_t> held_;  // running sequences by tenant
  StepPlan plan_;
};

}  // namespace

StepPlan PlanStep(std::span<const PlanSequence> sequences, const PlanLimits& limits) {
  return Planner(sequences, limits).Run();
}

}  // namespace lift
