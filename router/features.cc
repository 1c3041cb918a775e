#include "router/features.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace lift::router {
namespace {

constexpr std::array<std::string_view, kFeatureCount> kNames = {"bytes",
                                                                "words",
                                                                "lines",
                                                                "sentences",
                                                                "mean_word_length",
                                                                "distinct",
                                                                "digits",
                                                                "symbols",
                                                                "non_ascii",
                                                                "code",
                                                                "mathematics",
                                                                "list",
                                                                "question",
                                                                "reasoning_words",
                                                                "turns",
                                                                "tokens",
                                                                "bytes_per_token",
                                                                "last_entropy",
                                                                "last_margin",
                                                                "probe"};

constexpr double kLeastProbe = 1e-6;  // nats; logarithms of less are noise

double Log1p(int64_t count) { return std::log1p(static_cast<double>(std::max<int64_t>(0, count))); }
double Flag(bool value) { return value ? 1 : 0; }

}  // namespace

std::span<const std::string_view, kFeatureCount> FeatureNames() { return kNames; }

FeatureVector Features(const TextFeatures& text, const PrefillSignals& prefill) {
  constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();
  const bool read = prefill.available;
  const auto tokens = static_cast<double>(std::max<int64_t>(1, prefill.prompt_tokens));
  return {
      Log1p(text.bytes),
      Log1p(text.words),
      Log1p(text.lines),
      Log1p(text.sentences),
      text.mean_word_length,
      text.distinct_word_ratio,
      text.digit_ratio,
      text.symbol_ratio,
      text.non_ascii_ratio,
      Flag(text.has_code),
      Flag(text.has_math),
      Flag(text.has_list),
      Flag(text.is_question),
      Log1p(text.reasoning_words),
      Log1p(text.turns - 1),
      read ? Log1p(prefill.prompt_tokens) : kUnknown,
      read ? static_cast<double>(text.bytes) / tokens : kUnknown,
      read ? prefill.last_entropy : kUnknown,
      read ? prefill.last_margin : kUnknown,
      read && prefill.probe_kl >= 0 ? std::log(std::max(prefill.probe_kl, kLeastProbe)) : kUnknown};
}

}  // namespace lift::router
