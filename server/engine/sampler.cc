#include "server/engine/sampler.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "server/engine/random.h"

namespace lift {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

// NaN never wins; +inf stays comparable and subtractable.
float Clean(float x) {
  if (std::isnan(x)) return kNever;
  return std::min(x, std::numeric_limits<float>::max());
}

// The one order of tokens: best score first, lowest id among equals.
struct BetterFirst {
  std::span<const float> scores;
  bool operator()(int32_t a, int32_t b) const {
    return scores[a] != scores[b] ? scores[a] > scores[b] : a < b;
  }
};

int32_t ArgMax(std::span<const float> logits) {
  int32_t best = -1;
  float best_score = kNever;
  for (size_t i = 0; i < logits.size(); ++i) {
    const float score = Clean(logits[i]);
    if (score > best_score) {
      best_score = score;
      best = static_cast<int32_t>(i);
    }
  }
  return best;
}

bool HasPenalty(const SamplingParams& p) {
  return p.repetition_penalty != 1 || p.presence_penalty != 0 || p.frequency_penalty != 0;
}

bool ChangesScores(const SamplingParams& p, const TokenHistory& history,
                   std::span<const int32_t> banned) {
  return !p.logit_bias.empty() || !banned.empty() || (HasPenalty(p) && !history.counts().empty());
}

void ApplyPenalties(const SamplingParams& p, const TokenHistory& history, std::span<float> scores) {
  for (const auto& [id, count] : history.counts()) {
    if (id < 0 || static_cast<size_t>(id) >= scores.size()) continue;
    double x = scores[id];
    x = x > 0 ? x / p.repetition_penalty : x * p.repetition_penalty;
    if (count.generated > 0) x -= p.presence_penalty + p.frequency_penalty * count.generated;
    scores[id] = Clean(static_cast<float>(x));
  }
}

// All ones where a bit of the index is set.
constexpr auto kNibbleMasks = [] {
  std::array<std::array<uint32_t, 4>, 16> masks{};
  for (size_t bits = 0; bits < 16; ++bits) {
    for (size_t i = 0; i < 4; ++i) masks[bits][i] = (bits >> i & 1) != 0 ? ~0U : 0U;
  }
  return masks;
}();

// Scores of clear bits become kNever. Without a branch: masks are random bits.
void MaskWord(uint64_t word, std::span<float, 64> scores) {
  constexpr auto kNeverBits = std::bit_cast<uint32_t>(kNever);
  for (size_t first = 0; first < 64; first += 4, word >>= 4) {
    const auto& mask = kNibbleMasks[word & 15];
    for (size_t i = 0; i < 4; ++i) {
      const auto bits = std::bit_cast<uint32_t>(scores[first + i]);
      scores[first + i] = std::bit_cast<float>((bits & mask[i]) | (kNeverBits & ~mask[i]));
    }
  }
}

void ApplyMask(const TokenMask& mask, std::span<float> scores) {
  std::vector<float> kept;
  for (const int32_t id : mask.also) {
    const bool known = id >= 0 && static_cast<size_t>(id) < scores.size();
    kept.push_back(known ? scores[id] : kNever);
  }
  constexpr size_t kBits = 64;
  for (size_t first = 0; first < scores.size(); first += kBits) {
    const uint64_t word = first / kBits < mask.words.size() ? mask.words[first / kBits] : 0;
    const auto part = scores.subspan(first, std::min(kBits, scores.size() - first));
    if (word == 0) {
      std::fill(part.begin(), part.end(), kNever);
    } else if (part.size() == kBits) {
      if (~word != 0) MaskWord(word, part.first<kBits>());
    } else {
      for (size_t i = 0; i < part.size(); ++i) {
        if ((word >> i & 1) == 0) part[i] = kNever;
      }
    }
  }
  for (size_t i = 0; i < kept.size(); ++i) {
    const int32_t id = mask.also[i];
    if (id >= 0 && static_cast<size_t>(id) < scores.size()) scores[id] = kept[i];
  }
}

std::vector<float> Scores(std::span<const float> logits, const SamplingParams& p,
                          const TokenHistory& history, std::span<const int32_t> banned,
                          const TokenMask* allowed) {
  std::vector<float> scores(logits.size());
  std::transform(logits.begin(), logits.end(), scores.begin(), Clean);
  if (HasPenalty(p)) ApplyPenalties(p, history, scores);
  for (const auto& [id, bias] : p.logit_bias) {
    if (id >= 0 && static_cast<size_t>(id) < scores.size()) scores[id] += bias;
  }
  if (allowed != nullptr) ApplyMask(*allowed, scores);
  for (const int32_t id : banned) {
    if (id >= 0 && static_cast<size_t>(id) < scores.size()) scores[id] = kNever;
  }
  return scores;
}

// Moves the k best of `ids` to the front, unordered past that. A heap pass while k is small,
// quickselect otherwise.
void SelectBest(std::vector<int32_t>& ids, size_t k, const BetterFirst& order) {
  if (k >= ids.size()) return;
  if (k <= 256) {
    std::partial_sort(ids.begin(), ids.begin() + k, ids.end(), order);
  } else {
    std::nth_element(ids.begin(), ids.begin() + k, ids.end(), order);
  }
  ids.resize(k);
}

// Keeps the smallest set of best ids that holds `mass` of the weight: a quickselect on weights
// instead of counts.
void SelectMass(std::vector<int32_t>& ids, std::span<const float> weights, double mass,
                const BetterFirst& order) {
  size_t low = 0, high = ids.size();
  double before = 0;  // weight of ids[0, low)
  while (high - low > 1) {
    const size_t middle = low + (high - low) / 2;
    std::nth_element(ids.begin() + low, ids.begin() + middle, ids.begin() + high, order);
    double left = 0;
    for (size_t i = low; i < middle; ++i) left += weights[ids[i]];
    if (before + left >= mass) {
      high = middle;
    } else {
      before += left;
      low = middle;
    }
  }
  ids.resize(high);
}

// Applies top-k, top-p and min-p by zeroing the weights of what they drop.
void Filter(const SamplingParams& p, std::span<const float> scores, std::span<float> weights) {
  const BetterFirst order{scores};
  const bool use_k = p.top_k > 0 && static_cast<size_t>(p.top_k) < weights.size();
  if (use_k || p.top_p < 1) {
    std::vector<int32_t> ids(weights.size());
    std::iota(ids.begin(), ids.end(), 0);
    if (use_k) SelectBest(ids, static_cast<size_t>(p.top_k), order);
    if (p.top_p < 1) {
      double total = 0;
      for (const int32_t id : ids) total += weights[id];
      // All weights below this together are less than (1 - top_p) of the total, so none of them is
      // needed.
      const double negligible = (1 - p.top_p) * total / static_cast<double>(ids.size());
      std::erase_if(ids, [&](int32_t id) { return weights[id] < negligible; });
      SelectMass(ids, weights, p.top_p * total, order);
    }
    // What is kept is everything up to the worst kept id in the one order of tokens.
    const int32_t last = *std::max_element(ids.begin(), ids.end(), order);
    for (size_t i = 0; i < weights.size(); ++i) {
      if (order(last, static_cast<int32_t>(i))) weights[i] = 0;
    }
  }
  if (p.min_p > 0) {  // the best weight is 1
    for (float& weight : weights) {
      if (weight < p.min_p) weight = 0;
    }
  }
}

// A race of exponential arrival times, each id's with its weight as rate: the first one is drawn in
// proportion to the weights (Gumbel's trick without logarithms of them). As each id has a random
// number of its own, distributions that differ a little seldom draw different ids.
int32_t WinnerOfRace(std::span<const int32_t> ids, std::span<const float> weights,
                     const UniformStream& random) {
  int32_t winner = -1;
  double first = std::numeric_limits<double>::infinity();
  for (size_t i = 0; i < weights.size(); ++i) {
    const double weight = static_cast<double>(weights[i]);
    const double u = random.At(static_cast<uint64_t>(ids[i]));
    // -log(1 - u) > u: nearly all are out of the race before a logarithm is taken.
    if (weight == 0 || u >= first * weight) continue;
    const double arrival = -std::log1p(-u) / weight;
    if (arrival < first) first = arrival, winner = ids[i];
  }
  return winner;
}

int32_t Draw(const SamplingParams& p, std::span<const float> scores, int64_t step) {
  const float best = *std::max_element(scores.begin(), scores.end());
  if (best == kNever) return -1;
  // What can be drawn, in order of ids; gathered without a branch, as masks are random bits.
  std::vector<int32_t> ids(scores.size());
  std::vector<float> possible(scores.size());
  size_t count = 0;
  for (size_t i = 0; i < scores.size(); ++i) {
    ids[count] = static_cast<int32_t>(i);
    possible[count] = scores[i];
    count += scores[i] != kNever ? 1 : 0;
  }
  possible.resize(count);
  std::vector<float> weights(count);
  for (size_t i = 0; i < count; ++i) {
    const double x = (static_cast<double>(possible[i]) - best) / p.temperature;
    weights[i] = std::exp(static_cast<float>(std::max(x, -200.0)));
  }
  Filter(p, possible, weights);
  return WinnerOfRace(ids, weights, UniformStream(p.seed, static_cast<uint64_t>(step)));
}

// Log-probabilities of the model's own distribution.
void AddLogprobs(std::span<const float> logits, int count, SampledToken& token) {
  std::vector<float> raw(logits.size());
  std::transform(logits.begin(), logits.end(), raw.begin(), Clean);
  const float best = *std::max_element(raw.begin(), raw.end());
  double sum = 0;
  for (const float x : raw) sum += std::exp(x - best);
  const double log_sum = best + std::log(sum);
  const auto logprob = [&](int32_t id) { return static_cast<float>(raw[id] - log_sum); };
  token.logprob = logprob(token.id);
  if (count == 0) return;
  const BetterFirst order{raw};
  std::vector<int32_t> ids(raw.size());
  std::iota(ids.begin(), ids.end(), 0);
  SelectBest(ids, static_cast<size_t>(count), order);
  std::sort(ids.begin(), ids.end(), order);
  for (const int32_t id : ids) token.top.push_back({id, logprob(id)});
}

absl::Status OutOfRange(const std::string& field, double value, const std::string& range) {
  return absl::InvalidArgumentError(
      absl::StrCat("sampling.", field, " is ", value, "; it must be ", range));
}

}  // namespace

absl::Status SamplingParams::Validate(int64_t vocab_size) const {
  const auto within = [](double x, double low, double high) { return x >= low && x <= high; };
  if (!within(temperature, 0, 100)) {
    return OutOfRange("temperature", temperature, "between 0 (greedy) and 100");
  }
  if (top_k < 0) return OutOfRange("top_k", static_cast<double>(top_k), "0 (off) or positive");
  if (!(top_p > 0 && top_p <= 1)) return OutOfRange("top_p", top_p, "above 0 and at most 1 (off)");
  if (!within(min_p, 0, 1)) return OutOfRange("min_p", min_p, "between 0 (off) and 1");
  if (!(repetition_penalty > 0 && repetition_penalty <= 10)) {
    return OutOfRange("repetition_penalty", repetition_penalty,
                      "above 0 and at most 10 (1 is off)");
  }
  if (!within(presence_penalty, -2, 2)) {
    return OutOfRange("presence_penalty", presence_penalty, "between -2 and 2 (0 is off)");
  }
  if (!within(frequency_penalty, -2, 2)) {
    return OutOfRange("frequency_penalty", frequency_penalty, "between -2 and 2 (0 is off)");
  }
  if (!within(top_logprobs, -1, kMaxTopLogprobs)) {
    return OutOfRange("top_logprobs", top_logprobs,
                      absl::StrCat("between -1 (off) and ", kMaxTopLogprobs));
  }
  for (const auto& [id, bias] : logit_bias) {
    if (id < 0 || id >= vocab_size) {
      return OutOfRange("logit_bias token id", id, absl::StrCat("between 0 and ", vocab_size - 1));
    }
    if (!within(bias, -100, 100)) {
      return OutOfRange(absl::StrCat("logit_bias[", id, "]"), bias, "between -100 and 100");
    }
  }
  return absl::OkStatus();
}

void TokenHistory::AddPrompt(std::span<const int32_t> ids) {
  for (const int32_t id : ids) ++counts_[id].prompt;
}

void TokenHistory::AddGenerated(int32_t id) { ++counts_[id].generated; }

SampledToken Sample(std::span<const float> logits, const SamplingParams& params,
                    const TokenHistory& history, int64_t step, std::span<const int32_t> banned,
                    const TokenMask* allowed) {
  LIFT_CHECK(!logits.empty());
  SampledToken token;
  const bool plain = allowed == nullptr && !ChangesScores(params, history, banned);
  if (params.temperature == 0 && plain) {
    token.id = ArgMax(logits);
  } else {
    const std::vector<float> scores = Scores(logits, params, history, banned, allowed);
    token.id = params.temperature == 0 ? ArgMax(scores) : Draw(params, scores, step);
  }
  if (params.top_logprobs >= 0 && token.id >= 0) AddLogprobs(logits, params.top_logprobs, token);
  return token;
}

SampledToken LogprobsOf(std::span<const float> logits, int32_t id, int count) {
  LIFT_CHECK(id >= 0 && static_cast<size_t>(id) < logits.size());
  SampledToken token;
  token.id = id;
  AddLogprobs(logits, count, token);
  return token;
}

}  // namespace lift
