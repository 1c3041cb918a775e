#include "router/complexity.h"

#include <algorithm>
#include <cmath>

namespace lift::router {
namespace {

double Clamp01(double x) { return x > 0 ? std::min(x, 1.0) : 0.0; }  // NaN -> 0

// 0 up to `free`, then towards 1 with the given scale.
double Saturate(double x, double free, double scale) {
  return x > free ? -std::expm1(-(x - free) / scale) : 0.0;
}

void AddTextEvidence(const TextFeatures& t, std::vector<Evidence>& out) {
  const auto count = [](int64_t n) { return static_cast<double>(std::max<int64_t>(0, n)); };
  // Repeating a word adds length but no content; text without words still has bytes.
  const double content =
      std::max(count(t.words) * Clamp01(t.distinct_word_ratio), count(t.bytes) / 40);
  const double enough = Clamp01(count(t.bytes) / 100);  // ratios of a very short text mean little
  out.push_back({"length", 0.50, Saturate(content, 12, 100)});
  out.push_back({"sentences", 0.20, Saturate(count(t.sentences), 1, 6)});
  out.push_back({"lines", 0.15, Saturate(count(t.lines), 1, 15)});
  out.push_back({"long words", 0.10, Clamp01((t.mean_word_length - 5) / 5) * enough});
  out.push_back({"digits", 0.15, Clamp01(5 * t.digit_ratio) * enough});
  out.push_back({"symbols", 0.15, Clamp01(4 * t.symbol_ratio) * enough});
  out.push_back({"non-ASCII text", 0.15, Clamp01(2 * t.non_ascii_ratio)});
  out.push_back({"code", 0.65, t.has_code ? 1.0 : 0.0});
  out.push_back({"mathematics", 0.50, t.has_math ? 1.0 : 0.0});
  out.push_back({"a list", 0.10, t.has_list ? 1.0 : 0.0});
  out.push_back({"a question", 0.01, t.is_question ? 1.0 : 0.0});
  out.push_back({"reasoning words", 0.55, Saturate(count(t.reasoning_words), 0, 1.2)});
  out.push_back({"earlier turns", 0.20, Saturate(count(t.turns), 1, 6)});
}

void AddPrefillEvidence(const PrefillSignals& p, std::vector<Evidence>& out) {
  if (!p.available) return;
  out.push_back({"prompt tokens", 0.30, Saturate(static_cast<double>(p.prompt_tokens), 64, 800)});
  out.push_back({"an unexpected prompt", 0.15, Clamp01(p.mean_nll / 6)});
  out.push_back({"an unsure model", 0.20, Clamp01((p.last_entropy - 4.5) / 4)});
  out.push_back({"a close first choice", 0.03, Clamp01((0.4 - p.last_margin) / 0.4)});
}

}  // namespace

std::vector<Evidence> CollectEvidence(const TextFeatures& text, const PrefillSignals& prefill) {
  std::vector<Evidence> evidence;
  AddTextEvidence(text, evidence);
  AddPrefillEvidence(prefill, evidence);
  return evidence;
}

double Combine(const std::vector<Evidence>& evidence) {
  double easy = 1;
  for (const Evidence& e : evidence) easy *= 1 - e.weight * e.strength;
  return 1 - easy;
}

double ComplexityScore(const TextFeatures& text, const PrefillSignals& prefill) {
  return Combine(CollectEvidence(text, prefill));
}

}  // namespace lift::router
