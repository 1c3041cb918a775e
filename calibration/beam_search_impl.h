// Included once per ISA with `Ops` defined. Every primitive works on arrays of `beam` lanes (a
// multiple of 16) in memory; the search is compiled for each beam, so that loops over lanes have
// constant ends.
//
// A candidate is one 32-bit key: the bits of its (non-negative) cost with the low bits replaced by
// branch * beam + parent, so that selecting keys selects candidates. Errors not yet committed live
// in a window of columns [lo, t): the columns of the current group of four in today's path order
// (`recent`), the older ones in the order of the group's start (`old`), with `map` leading from one
// to the other.
#pragma once

#include <algorithm>
#include <bit>
#include <cstring>
#include <span>
#include <type_traits>
#include <utility>

#include "calibration/beam_lookahead.h"
#include "calibration/beam_search.h"
#include "kernels/base/check.h"

namespace lift::beam_internal {

inline constexpr int kWindow = 64;  // uncommitted columns at most
inline constexpr int kGroup = 4;
inline constexpr int kMaxMarks = kWindow / kGroup;
inline constexpr int kMergeBits = 11;  // slots to find equal paths by; a collision only misses one
inline constexpr int64_t kPanel = 64;  // columns between far pushes
inline constexpr size_t kSlack = 16;   // lanes past its end that Compress may write
inline constexpr int32_t kInvalidKey = 0x7F000000;
inline constexpr float kMaxCost =
    1e30f;  // overflow and NaN become this, whose key is still below kInvalidKey

template <class Ops, int kBeam>
class Search {
 public:
  Search(const SearchProblem& p, SearchScratch& scratch)
      : p_(p), code_(*p.code), scratch_(scratch) {
    static_assert(kBeam >= 16 && kBeam <= 256 && std::has_single_bit(unsigned{kBeam}));
    LIFT_CHECK(p.block % kGroup == 0 && p.lag % p.block == 0 && p.block + p.lag <= kWindow);
    const size_t lanes = static_cast<size_t>(m_);
    const size_t floats = lanes * (kWindow + 3 * kGroup + 13 + kAhead + kMaxMarks +
                                   static_cast<size_t>(code_.branches)) +
                          kSlack + 64;
    if (scratch.floats.size() < floats) scratch.floats.resize(floats);
    float* next = scratch.floats.data();
    next += (64 - reinterpret_cast<uintptr_t>(next) % 64) % 64 / sizeof(float);
    const auto take = [&](size_t n) {
      float* q = next;
      next += n;
      return q;
    };
    for (float*& slot : old_) slot = take(lanes);
    for (float*& slot : recent_) slot = take(lanes);
    partial_ = take(lanes * kGroup);
    for (int32_t*& q : ancestor_) q = reinterpret_cast<int32_t*>(take(lanes));
    for (float** q : {&cost_, &target_, &base_, &spare_, &charge_}) *q = take(lanes);
    ahead_ = take(lanes * kAhead);
    for (int32_t** q : {&map_, &history_, &parity_, &parent_, &branch_})
      *q = reinterpret_cast<int32_t*>(take(lanes));
    order_ = reinterpret_cast<int32_t*>(take(lanes + kSlack));
    keys_ = reinterpret_cast<int32_t*>(take(lanes * static_cast<size_t>(code_.branches)));
    const size_t steps = static_cast<size_t>(p.n) * lanes;
    if (scratch.trace.size() < steps) scratch.trace.resize(steps);
    trace_ = scratch.trace.data();
    scratch.correction.assign(static_cast<size_t>(2 * p.n), 0.0f);
    correction_ = scratch.correction.data();
    committed_ = correction_ + p.n;
    index_bits_ = std::countr_zero(static_cast<unsigned>(m_ * code_.branches));
  }

  // Columns [begin, end); begin = 0 starts the row. Errors committed on the way are pushed to
  // columns before `end` at once; the rest of their effect is the caller's (PushFar), many rows at
  // a time, so that U is read once for all of them.
  void RunPanel(int64_t begin, int64_t end) {
    if (begin == 0) Start();
    panel_end_ = end;
    panel_lo_ = lo_;
    for (int64_t t = begin; t < end; ++t) {
      if (t % kGroup == 0) BeginGroup(t);
      Step(t);
      if ((t + 1) % kGroup == 0) EndGroup(t);
      if ((t + 1) % p_.block == 0 && t + 1 < p_.n) Commit(t);
    }
    if (end == p_.n) KeepEnd();
  }

  // The errors committed by the last panel and where their far effect goes.
  int64_t committed_begin() const { return panel_lo_; }
  int64_t committed_end() const { return lo_; }
  const float* committed() const { return committed_; }
  float* correction() { return correction_; }

 private:
  float*& old_slot(int64_t column) { return old_[column % kWindow]; }

  // The lane of the least cost. Costs are not negative, so that they order like their bits.
  int BestLane() const {
    const auto bits = [&](int i) { return std::bit_cast<int32_t>(cost_[i]); };
    int32_t least = bits(0);
    for (int i = 1; i < live_; ++i) least = std::min(least, bits(i));
    int lane = 0;
    while (bits(lane) != least) ++lane;
    return lane;
  }

  void Start() {
    live_ = p_.start != nullptr ? p_.start->lanes : m_;
    LIFT_CHECK(live_ <= m_);
    uint32_t state = 0x9E3779B9u;
    for (int i = 0; i < m_; ++i) {
      state = state * 1664525u + 1013904223u;
      const bool given = p_.start != nullptr && i < live_;
      history_[i] = given ? p_.start->history[i]
                          : static_cast<int32_t>((state ^ state >> 15) & code_.history_mask);
      cost_[i] = given ? p_.start->cost[i] : 0;
      charge_[i] = 0;
      map_[i] = i;
    }
  }

  // Feedback of the uncommitted older columns on each of the group's four columns, in the group's
  // starting order.
  void BeginGroup(int64_t t) {
    for (int i = 0; i < m_; ++i) map_[i] = i;
    float weights[kWindow * kGroup];
    const float* slots[kWindow];
    int count = 0;
    for (int64_t s = lo_; s < t; ++s, ++count) {
      slots[count] = old_slot(s);
      std::memcpy(weights + count * kGroup, p_.upper + s * p_.stride + t, sizeof(float) * kGroup);
    }
    Ops::PartialSums(m_, count, slots, weights, partial_);
    group_ = t;
    GuessTargets(t, count, slots);
  }

  // The targets of columns [t, t + kGuesses) as the best path's errors before t leave them.
  void GuessTargets(int64_t t, int count, const float* const* slots) {
    const int best = BestLane();
    const int inside = static_cast<int>(std::min<int64_t>(kGuesses, p_.n - t));
    float guess[kGuesses] = {};  // a local that nothing else points to stays in registers
    for (int j = 0; j < inside; ++j) guess[j] = p_.target[t + j] + correction_[t + j];
    const auto add_errors = [&](auto columns) {
      const float* u = p_.upper + lo_ * p_.stride + t;
      for (int i = 0; i < count; ++i, u += p_.stride) {
        const float error = slots[i][best];
        for (int j = 0; j < columns; ++j) guess[j] += u[j] * error;
      }
    };
    if (inside == kGuesses) {  // a constant, nearly always
      add_errors(std::integral_constant<int, kGuesses>());
    } else {
      add_errors(inside);
    }
    std::copy_n(guess, kGuesses, guess_);
  }

  void FindFarTargets(int64_t t) {
    far_.count = 0;
    for (int d = 1; d <= kAhead; ++d) {
      const float aim = guess_[t - group_ + d];
      if (t + d >= p_.n || std::abs(aim) < code_.far) continue;
      far_.distance[far_.count] = d;
      far_.aim[far_.count] = aim;
      far_.weight[far_.count++] = p_.diagonal[t + d];
    }
  }

  // Takes the charges for far targets out of the costs, which stay non-negative.
  void DropCharges() {
    if (!charged_) return;
    float least = kMaxCost;
    for (int i = 0; i < live_; ++i) {
      if (cost_[i] < kMaxCost) cost_[i] -= charge_[i];
      least = std::min(least, cost_[i]);
    }
    for (int i = 0; i < live_; ++i) {
      if (cost_[i] < kMaxCost) cost_[i] -= least;
      charge_[i] = 0;
    }
    charged_ = false;
  }

  // Adds to every candidate's key what its history is certain to miss the far targets by.
  void ChargeCandidates() {
    for (int k = 0; k < far_.count; ++k)
      Ops::OldSteps(m_, code_, far_.distance[k], history_, ahead_ + k * m_);
    Ops::ChargeKeys(m_, code_, far_, index_bits_, ahead_, parity_, keys_);
  }

  // The survivors' own charges, which the next step takes out again.
  void KeepCharges() {
    charged_ = true;
    for (int k = 0; k < far_.count; ++k) {
      Ops::OldSteps(m_, code_, far_.distance[k] - 1, history_, spare_);
      for (int i = 0; i < live_; ++i) charge_[i] += Charge(code_, far_, k, spare_[i]);
    }
  }

  void Step(int64_t t) {
    const int c = static_cast<int>(t - group_);
    Ops::Permute(m_, partial_ + c * m_, map_, target_);
    for (int64_t s = group_; s < t; ++s) {
      Ops::MultiplyAdd(m_, recent_[s - group_], p_.upper[s * p_.stride + t], target_);
    }
    const float aim = p_.target[t] + correction_[t];
    Ops::Predict(m_, code_, history_, base_, parity_);
    DropCharges();
    FindFarTargets(t);
    const int only = t >= p_.forced_from ? p_.forced[t] : -1;
    Ops::Candidates(m_, live_, code_, only, aim, p_.diagonal[t], p_.target[t], index_bits_, cost_,
                    target_, base_, parity_, keys_);
    if (far_.count > 0) ChargeCandidates();
    const int candidates = m_ * code_.branches;
    int32_t bound = kInvalidKey;
    const int valid = only >= 0 ? live_ : live_ * code_.branches;
    if (valid > m_) bound = SelectBound(candidates);
    // Survivors in key-array order: order_ holds their keys.
    const int count = Ops::Compress(candidates, keys_, bound, order_);
    LIFT_CHECK(count >= 1 && count <= m_);
    const int32_t index_mask = (1 << index_bits_) - 1;
    Ops::Finish(m_, count, order_, index_mask, parent_, branch_, cost_);
    live_ = count;
    uint16_t* trace = trace_ + t * m_;
    for (int i = 0; i < m_; ++i) trace[i] = static_cast<uint16_t>(order_[i] & index_mask);
    Advance(t, c);
    if (far_.count > 0) KeepCharges();
    Merge();
  }

  void Follow(int32_t*& values, const int32_t* lanes) {
    int32_t* moved = reinterpret_cast<int32_t*>(spare_);
    Ops::PermuteInt(m_, values, lanes, moved);
    spare_ = reinterpret_cast<float*>(std::exchange(values, moved));
  }

  // Moves the survivors' state to their new lanes and appends this column's signs and errors.
  void Advance(int64_t t, int c) {
    Ops::Permute(m_, base_, parent_, spare_);
    std::swap(base_, spare_);
    for (int32_t** values : {&parity_, &history_, &map_}) Follow(*values, parent_);
    for (int s = 0; s < c; ++s) {
      Ops::Permute(m_, recent_[s], parent_, spare_);
      std::swap(recent_[s], spare_);
    }
    // Raw error (without feedback) and the new history.
    Ops::Append(m_, code_, p_.target[t], base_, parity_, branch_, history_, recent_[c]);
  }

  // Of paths whose windows have become the same (so have their futures, feedback of old errors
  // apart) only the cheapest is worth a lane: the others get a cost that the next selection drops.
  void Merge() {
    ++round_;
    for (int i = 0; i < live_; ++i) {
      const uint32_t hash = static_cast<uint32_t>(history_[i]) * 0x9E3779B1u >> (32 - kMergeBits);
      const uint32_t seen = seen_[hash], lane = seen & 255u;
      if (seen >> 8 != round_) {
        seen_[hash] = round_ << 8 | static_cast<uint32_t>(i);
        continue;
      }
      if (history_[lane] != history_[i]) continue;
      const bool better = cost_[i] < cost_[lane];
      if (better) seen_[hash] = round_ << 8 | static_cast<uint32_t>(i);
      cost_[better ? lane : static_cast<uint32_t>(i)] = kMaxCost;
    }
  }

  // A key such that nearly `m_` (never more) candidates are below it. Bisection on the integer
  // keys, which order like costs.
  int32_t SelectBound(int candidates) {
    int32_t low = 0, high = kInvalidKey;  // count(low) < wanted; count(high) > m_
    const int least = m_ - m_ / 8;
    int32_t probe = threshold_ > 0 ? threshold_ : kInvalidKey / 2;
    for (int i = 0; i < 40 && high - low > 1; ++i) {
      const int count = Ops::CountBelow(candidates, keys_, probe);
      if (count > m_) {
        high = probe;
      } else if (count < least) {
        low = probe;
      } else {
        threshold_ = probe;
        return probe;
      }
      // The previous step's bound is a good guess: widen around it before falling back to plain
      // bisection.
      if (i < 4) {
        const int32_t step = (1 << 20) << (2 * i);
        if (count > m_)
          probe = std::max(low + 1, probe - step);
        else
          probe = std::min(high - 1, probe + step);
        if (probe <= low || probe >= high) probe = low + (high - low) / 2;
        if (low != 0 && high != kInvalidKey) probe = low + (high - low) / 2;
      } else {
        probe = low + (high - low) / 2;
      }
    }
    threshold_ = low > 0 ? low : probe;
    return low > 0 ? low : 1;
  }

  void EndGroup(int64_t t) {
    for (int64_t s = lo_; s < group_; ++s) {
      Ops::Permute(m_, old_slot(s), map_, spare_);
      std::swap(old_slot(s), spare_);
    }
    for (int a = 0; a < ancestors_; ++a) Follow(ancestor_[a], map_);
    for (int64_t s = group_; s <= t; ++s) std::swap(old_slot(s), recent_[s - group_]);
  }

  // Fixes the columns at least `lag` behind on the best path's choice, drops paths that disagree,
  // pushes their errors forward.
  void Commit(int64_t t) {
    const int64_t upto = t + 1 - p_.lag;
    if (upto > lo_) {
      const int best = BestLane();
      for (int64_t s = lo_; s < upto; ++s) {
        const float e = committed_[s] = old_slot(s)[best];
        const float* u = p_.upper + s * p_.stride;
        for (int64_t k = t + 1; k < panel_end_; ++k) correction_[k] += e * u[k];
      }
      // ancestor_[0]: each path's lane after column upto - 1.
      int kept = 0;
      for (int i = 0; i < live_; ++i) {
        if (ancestor_[0][i] == ancestor_[0][best]) order_[kept++] = i;
      }
      DropOthers(t, upto, kept);
      lo_ = upto;
    }
    // From now on remember the lanes after this column; the oldest mark, if its commit is done,
    // makes room.
    int32_t* mark = ancestor_[ancestors_ == kMaxMarks || upto > 0 ? 0 : ancestors_];
    if (upto > 0) {
      for (int a = 0; a + 1 < ancestors_; ++a) ancestor_[a] = ancestor_[a + 1];
      ancestor_[ancestors_ - 1] = mark;
    } else {
      ++ancestors_;
    }
    for (int i = 0; i < m_; ++i) mark[i] = i;
  }

  // Keeps the paths in order_[0, kept) only.
  void DropOthers(int64_t t, int64_t upto, int kept) {
    for (int i = kept; i < m_; ++i) order_[i] = order_[0];
    const auto gather = [&](void* values) {
      Ops::PermuteInt(m_, static_cast<const int32_t*>(values), order_,
                      reinterpret_cast<int32_t*>(spare_));
      std::memcpy(values, spare_, sizeof(float) * m_);
    };
    gather(cost_);
    gather(charge_);
    gather(history_);
    for (int a = 0; a < ancestors_; ++a) gather(ancestor_[a]);
    for (int64_t s = upto; s <= t; ++s) gather(old_slot(s));
    for (int i = 0; i < kept; ++i) trace_[t * m_ + i] = trace_[t * m_ + order_[i]];
    live_ = kept;
  }

  void KeepEnd() {
    SearchEnd& end = scratch_.end;
    end.lanes = live_;
    end.best = BestLane();
    for (int i = 0; i < live_; ++i) {
      end.history[i] = history_[i];
      end.cost[i] = cost_[i] - cost_[end.best];
    }
  }

  const SearchProblem& p_;
  const SearchCode& code_;
  static constexpr int m_ = kBeam;
  static constexpr int kGuesses = 16;  // kGroup + kAhead and more
  static_assert(kGuesses >= kGroup + kAhead);
  SearchScratch& scratch_;
  float *old_[kWindow], *recent_[kGroup];  // errors of a column, [lanes] each
  float *partial_, *cost_, *target_, *base_, *spare_;
  float *charge_,
      *ahead_;      // [lanes] part of cost_ that is a charge for far targets; [kAhead][lanes]
  FarTargets far_;  // of the step at hand
  float guess_[kGuesses] = {};  // the group's and the next columns' targets on its best path
  bool charged_ = false;
  int32_t *map_, *history_, *parity_, *parent_, *branch_, *order_, *keys_;
  uint16_t* trace_;
  float *correction_, *committed_;
  int32_t* ancestor_[kMaxMarks];  // lanes after the columns that the next commits will decide,
                                  // oldest first
  int ancestors_ = 0;
  int index_bits_ = 0, live_ = 0;
  int64_t lo_ = 0, group_ = 0, panel_end_ = 0, panel_lo_ = 0;
  int32_t threshold_ = 0;
  uint32_t round_ = 0;                   // of merging
  uint32_t seen_[1 << kMergeBits] = {};  // by history: round << 8 | lane
};

// Searches rows that share everything but their targets, panel by panel.
template <class Ops, int kBeam>
void SearchBeam(std::span<const SearchProblem> problems, std::span<SearchScratch> scratch) {
  std::vector<Search<Ops, kBeam>> rows;
  rows.reserve(problems.size());
  for (size_t r = 0; r < problems.size(); ++r) rows.emplace_back(problems[r], scratch[r]);
  const SearchProblem& first = problems[0];
  for (int64_t begin = 0; begin < first.n; begin += kPanel) {
    const int64_t end = std::min(first.n, begin + kPanel);
    for (Search<Ops, kBeam>& row : rows) row.RunPanel(begin, end);
    for (Search<Ops, kBeam>& row : rows) {
      Ops::PushFar(row.committed() + row.committed_begin(),
                   static_cast<int>(row.committed_end() - row.committed_begin()),
                   first.upper + row.committed_begin() * first.stride, first.stride, end, first.n,
                   row.correction());
    }
  }
}

template <class Ops>
void SearchRows(std::span<const SearchProblem> problems, std::span<SearchScratch> scratch) {
  switch (problems[0].beam) {
    case 16:
      return SearchBeam<Ops, 16>(problems, scratch);
    case 32:
      return SearchBeam<Ops, 32>(problems, scratch);
    case 64:
      return SearchBeam<Ops, 64>(problems, scratch);
    case 128:
      return SearchBeam<Ops, 128>(problems, scratch);
    default:
      LIFT_CHECK(problems[0].beam == 256);
      return SearchBeam<Ops, 256>(problems, scratch);
  }
}

}  // namespace lift::beam_internal
