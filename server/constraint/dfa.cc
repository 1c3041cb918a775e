#include "server/constraint/dfa.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/hash/hash.h"
#include "server/constraint/limits.h"

namespace lift {
namespace {

using State = Nfa::State;
constexpr int32_t kMaxStates = 1 << 14;
constexpr size_t kMaxFrames = 1 << 17;
constexpr int64_t kMaxWork = 1 << 23;  // items visited: some tenths of a second
constexpr size_t kMaxItems = 1 << 22;  // in all states together

// A state of the NFA and the calls it is inside of.
using Item = std::pair<int32_t, int32_t>;
using ItemSet = std::vector<Item>;

class SubsetBuilder {
 public:
  SubsetBuilder(const Nfa& nfa, int depth, int64_t max_work)
      : nfa_(nfa), depth_(depth), max_work_(max_work), seen_outside_(nfa.states.size(), 0) {
    frames_.push_back({-1, -1, -1, 0});
  }
  SubsetBuilder(const SubsetBuilder&) = delete;  // ids_ looks into sets_
  SubsetBuilder& operator=(const SubsetBuilder&) = delete;

  absl::StatusOr<Dfa> Run() {
    dfa_.depth = depth_;
    FindClasses();
    dfa_.start = Intern(Closure({{nfa_.rules[0].entry, 0}}));
    for (int32_t s = 0; s < static_cast<int32_t>(sets_.size()); ++s) {
      Expand(s);
      if (full_) return TooLarge("its automaton has too many states or paths");
    }
    Trim();
    return std::move(dfa_);
  }

 private:
  // Finds a state of the DFA by the set it stands for.
  struct SetHash {
    using is_transparent = void;
    const std::vector<ItemSet>* sets;
    size_t operator()(const ItemSet& set) const { return absl::HashOf(set); }
    size_t operator()(int32_t id) const { return (*this)((*sets)[static_cast<size_t>(id)]); }
  };
  struct SetEqual {
    using is_transparent = void;
    const std::vector<ItemSet>* sets;
    bool operator()(int32_t a, int32_t b) const { return a == b; }
    bool operator()(int32_t id, const ItemSet& set) const {
      return (*sets)[static_cast<size_t>(id)] == set;
    }
  };

  struct Frame {
    int32_t next, parent, rule;  // where the caller goes on, its own frame, a recursive rule or -1
    int nested;                  // frames of the same rule below and including this one
  };

  void FindClasses() {
    std::array<bool, 257> border{};
    for (const State& state : nfa_.states) {
      if (state.kind != State::Kind::kBytes) continue;
      border[state.low] = true;
      border[static_cast<size_t>(state.high) + 1] = true;
    }
    int32_t current = 0;
    for (size_t byte = 0; byte < 256; ++byte) {
      if (byte > 0 && border[byte]) ++current;
      dfa_.class_of[byte] = static_cast<uint8_t>(current);
    }
    dfa_.classes = current + 1;
  }

  // The frame of a call, or -1 if the rule is inside itself often enough. Frames of rules that do
  // not recur are told apart by nothing but where they return to.
  int32_t Push(int32_t rule, int32_t next, int32_t parent) {
    int nested = 0;
    if (!nfa_.rules[static_cast<size_t>(rule)].recursive) {
      rule = -1;
    } else {
      nested = 1;
      for (int32_t f = parent; f > 0; f = frames_[static_cast<size_t>(f)].parent) {
        full_ = full_ || ++work_ > max_work_;
        if (frames_[static_cast<size_t>(f)].rule != rule) continue;
        nested = frames_[static_cast<size_t>(f)].nested + 1;
        break;
      }
      if (nested > depth_) return -1;
    }
    const auto [it, added] = frame_ids_.try_emplace({next, parent, rule}, 0);
    if (added) {
      it->second = static_cast<int32_t>(frames_.size());
      frames_.push_back({next, parent, rule, nested});
      full_ = full_ || frames_.size() > kMaxFrames;
    }
    return it->second;
  }

  // A call at the very end of a rule returns to where that rule returns to. The frame it goes on in
  // must still count one rule of every cycle.
  int32_t TailCall(int32_t rule, int32_t frame) {
    const Frame f = frames_[static_cast<size_t>(frame)];
    if (frame == 0 || f.rule >= 0 || !nfa_.rules[static_cast<size_t>(rule)].recursive) return frame;
    return Push(rule, f.next, f.parent);
  }

  // What can be read next: states that read a byte, and the end of the whole text.
  ItemSet Closure(ItemSet open) {
    ItemSet items;
    absl::flat_hash_set<Item> seen_inside;
    ++closures_;
    while (!open.empty() && !full_) {
      const Item item = open.back();
      open.pop_back();
      const bool again = item.second == 0
                             ? std::exchange(seen_outside_[static_cast<size_t>(item.first)],
                                             closures_) == closures_
                             : !seen_inside.insert(item).second;
      if (again) continue;
      full_ = full_ || ++work_ > max_work_;
      const auto& [at, frame] = item;
      const State& state = nfa_.states[static_cast<size_t>(at)];
      switch (state.kind) {
        case State::Kind::kBytes:
          items.push_back(item);
          break;
        case State::Kind::kSplit:
          for (const int32_t target : state.split) open.emplace_back(target, frame);
          break;
        case State::Kind::kEnd:
          if (frame == 0) {
            items.push_back(item);
          } else {
            const Frame& f = frames_[static_cast<size_t>(frame)];
            open.emplace_back(f.next, f.parent);
          }
          break;
        case State::Kind::kCall:
          Call(state, frame, open);
          break;
      }
    }
    std::sort(items.begin(), items.end());
    return items;
  }

  void Call(const State& state, int32_t frame, ItemSet& open) {
    const Nfa::Rule& rule = nfa_.rules[static_cast<size_t>(state.rule)];
    const bool last = nfa_.states[static_cast<size_t>(state.next)].kind == State::Kind::kEnd;
    const int32_t inner = last ? TailCall(state.rule, frame) : Push(state.rule, state.next, frame);
    if (inner >= 0) open.emplace_back(rule.entry, inner);
  }

  int32_t Intern(ItemSet items) {
    if (items.empty()) return Dfa::kDead;
    if (const auto it = ids_.find(items); it != ids_.end()) return *it;
    bool accepts = false;
    for (const auto& [at, frame] : items) {
      accepts = accepts || nfa_.states[static_cast<size_t>(at)].kind == State::Kind::kEnd;
    }
    dfa_.accepting.push_back(accepts);
    items_ += items.size();
    sets_.push_back(std::move(items));
    const auto id = static_cast<int32_t>(sets_.size()) - 1;
    ids_.insert(id);
    full_ = full_ || sets_.size() > static_cast<size_t>(kMaxStates) || items_ > kMaxItems;
    return id;
  }

  void Expand(int32_t s) {
    std::vector<ItemSet> seeds(static_cast<size_t>(dfa_.classes));
    for (const auto& [at, frame] : sets_[static_cast<size_t>(s)]) {
      const State& state = nfa_.states[static_cast<size_t>(at)];
      if (state.kind != State::Kind::kBytes) continue;
      for (size_t c = dfa_.class_of[state.low]; c <= dfa_.class_of[state.high]; ++c) {
        seeds[c].emplace_back(state.next, frame);
        ++work_;
      }
      full_ = full_ || work_ > max_work_;
    }
    absl::flat_hash_map<ItemSet, int32_t> known;
    for (ItemSet& seed : seeds) {
      if (seed.empty() || full_) {
        dfa_.next.push_back(Dfa::kDead);
        continue;
      }
      const auto [it, added] = known.try_emplace(seed, Dfa::kDead);
      if (added) it->second = Intern(Closure(std::move(seed)));
      dfa_.next.push_back(it->second);
    }
  }

  // Drops states that lead nowhere.
  void Trim() {
    const auto count = static_cast<size_t>(dfa_.states());
    const auto classes = static_cast<size_t>(dfa_.classes);
    std::vector<std::vector<int32_t>> sources(count);
    std::vector<int32_t> open;
    std::vector<bool> alive(count, false);
    for (size_t s = 0; s < count; ++s) {
      if (dfa_.accepting[s]) open.push_back(static_cast<int32_t>(s));
      for (size_t c = 0; c < classes; ++c) {
        const int32_t target = dfa_.next[s * classes + c];
        if (target != Dfa::kDead)
          sources[static_cast<size_t>(target)].push_back(static_cast<int32_t>(s));
      }
    }
    while (!open.empty()) {
      const auto s = static_cast<size_t>(open.back());
      open.pop_back();
      if (alive[s]) continue;
      alive[s] = true;
      open.insert(open.end(), sources[s].begin(), sources[s].end());
    }
    for (int32_t& target : dfa_.next) {
      if (target != Dfa::kDead && !alive[static_cast<size_t>(target)]) target = Dfa::kDead;
    }
    if (dfa_.start != Dfa::kDead && !alive[static_cast<size_t>(dfa_.start)])
      dfa_.start = Dfa::kDead;
  }

  const Nfa& nfa_;
  const int depth_;
  const int64_t max_work_;
  Dfa dfa_;
  std::vector<Frame> frames_;  // the first is the outside
  absl::flat_hash_map<std::tuple<int32_t, int32_t, int32_t>, int32_t> frame_ids_;
  std::vector<ItemSet> sets_;
  absl::flat_hash_set<int32_t, SetHash, SetEqual> ids_{0, SetHash{&sets_}, SetEqual{&sets_}};
  std::vector<int64_t> seen_outside_;  // by state, in frame 0: the last closure that met it
  int64_t closures_ = 0;
  size_t items_ = 0;
  int64_t work_ = 0;
  bool full_ = false;
};

}  // namespace

absl::StatusOr<Dfa> BuildDfa(const Nfa& nfa) {
  if (!nfa.recursive()) return SubsetBuilder(nfa, 0, kMaxWork).Run();
  absl::StatusOr<Dfa> dfa;
  for (const int depth : {32, 16, 8, 6, 5, 4, 3, 2, 1}) {
    dfa = SubsetBuilder(nfa, depth, kMaxWork / 4).Run();
    if (dfa.ok()) break;
  }
  return dfa;
}

}  // namespace lift
