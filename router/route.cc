#include <algorithm>
#include <cmath>
#include <optional>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "router/choose.h"
#include "router/complexity.h"
#include "router/router.h"

namespace lift::router {
namespace {

constexpr double kPressureStart = 0.5;  // the queue may be half full before precision suffers
constexpr double kProbeApart = 0.02;    // share of bits by which a probing variant may differ

bool MeetsFloor(const VariantView& v, const PrecisionRequest& request) {
  if (v.lambda < request.min_lambda) return false;
  const double kl = KnownKl(v);
  return request.max_quality_loss == 0 || (kl >= 0 && kl <= request.max_quality_loss);
}

// The cheapest variant from `from` up that meets the floor, else the dearest below it that does.
std::optional<int> NearestAllowed(int from, std::span<const VariantView> variants,
                                  const PrecisionRequest& request) {
  const int count = static_cast<int>(variants.size());
  for (int i = from; i < count; ++i) {
    if (MeetsFloor(variants[i], request)) return i;
  }
  for (int i = from - 1; i >= 0; --i) {
    if (MeetsFloor(variants[i], request)) return i;
  }
  return std::nullopt;
}

std::string FloorText(const PrecisionRequest& request) {
  std::string text;
  if (request.min_lambda > 0) text = absl::StrFormat("min_lambda %.3g", request.min_lambda);
  if (request.max_quality_loss > 0) {
    absl::StrAppend(&text, text.empty() ? "" : " and ",
                    absl::StrFormat("max_quality_loss %.3g", request.max_quality_loss));
  }
  return text;
}

// "Complexity 0.73 (reasoning words, mathematics)": the score and its two strongest causes.
std::string ScoreText(double score, std::vector<Evidence> evidence) {
  std::stable_sort(evidence.begin(), evidence.end(), [](const Evidence& a, const Evidence& b) {
    return a.weight * a.strength > b.weight * b.strength;
  });
  std::string causes;
  for (size_t i = 0; i < 2 && evidence[i].weight * evidence[i].strength >= 0.05; ++i) {
    absl::StrAppend(&causes, i == 0 ? "" : ", ", std::string(evidence[i].name));
  }
  return absl::StrFormat("Complexity %.2f (%s)", score,
                         causes.empty() ? "nothing hard in it" : causes);
}

absl::Status Validate(const PrecisionRequest& request, std::span<const VariantView> variants) {
  if (variants.empty()) return absl::FailedPreconditionError("no variant is resident");
  if (!(request.min_lambda >= 0 && request.min_lambda <= 1)) {
    return absl::InvalidArgumentError(absl::StrCat("precision.min_lambda is ", request.min_lambda,
                                                   "; it must be between 0 (no floor) and 1"));
  }
  if (!(request.max_quality_loss >= 0) || std::isinf(request.max_quality_loss)) {
    return absl::InvalidArgumentError(
        absl::StrCat("precision.max_quality_loss is ", request.max_quality_loss,
                     "; it must be 0 (no cap) or a positive number of nats"));
  }
  return absl::OkStatus();
}

absl::Status FloorUnavailable(const std::string& what) {
  return absl::FailedPreconditionError(absl::StrCat("PRECISION_FLOOR_UNAVAILABLE: ", what));
}

Decision FallBack(double score, int to, std::string from, std::span<const VariantView> variants,
                  const PrecisionRequest& request) {
  Decision d;
  d.variant = to;
  d.score = score;
  d.reason = Reason::kFallback;
  d.explanation = absl::StrCat(
      from.empty() ? "No resident variant" : absl::StrCat("Pinned ", from, " does not"),
      from.empty() ? " meets " : " meet ", FloorText(request), "; fallback is allowed, so ",
      variants[to].name, " serves it.");
  d.fallback_from = std::move(from);
  return d;
}

absl::StatusOr<Decision> RoutePinned(double score, const PrecisionRequest& request,
                                     std::span<const VariantView> variants) {
  const auto it = std::find_if(variants.begin(), variants.end(),
                               [&](const VariantView& v) { return v.name == request.variant; });
  if (it == variants.end()) {
    std::string known;
    for (const VariantView& v : variants)
      absl::StrAppend(&known, known.empty() ? "" : ", ", v.name);
    return absl::NotFoundError(absl::StrCat("variant '", request.variant,
                                            "' is not resident; resident variants: ", known));
  }
  const int pinned = static_cast<int>(it - variants.begin());
  if (MeetsFloor(*it, request)) {
    return Decision{.variant = pinned,
                    .score = score,
                    .reason = Reason::kPinned,
                    .explanation = absl::StrCat("The request pinned ", it->name, "."),
                    .fallback_from = "",
                    .expected_kl = -1};
  }
  if (!request.allow_fallback) {
    return FloorUnavailable(absl::StrCat("pinned variant ", it->name, " does not meet ",
                                         FloorText(request),
                                         "; pin a finer variant or lower the floor"));
  }
  const int finest = static_cast<int>(variants.size()) - 1;
  const int to = NearestAllowed(pinned, variants, request).value_or(finest);
  return FallBack(score, to, it->name, variants, request);
}

// A cap on loss is met by what calibration measured, or the variant is not allowed; where this
// query is expected to lose more than the mean one, the next finer variants are asked for as well.
int RaiseToCap(int from, const Chooser& chooser, std::span<const VariantView> variants,
               const PrecisionRequest& request, const RouterConfig& config) {
  if (request.max_quality_loss == 0 || config.predictor == nullptr) return from;
  const double finest = std::max(0.0, KnownKl(variants.back()));
  const auto lost = [&](int v) { return chooser.losses()[static_cast<size_t>(v)] + finest; };
  while (from + 1 < static_cast<int>(variants.size()) && lost(from) > request.max_quality_loss) {
    ++from;
  }
  return from;
}

// Which is refused depends on the request and the variants alone.
absl::Status CheckAuto(const PrecisionRequest& request, std::span<const VariantView> variants) {
  if (request.allow_fallback || NearestAllowed(0, variants, request)) return absl::OkStatus();
  return FloorUnavailable(absl::StrCat("no resident variant meets ", FloorText(request),
                                       "; the finest is ", variants.back().name,
                                       "; lower the floor or allow fallback"));
}

// Of a request that CheckAuto lets pass.
Decision RouteAuto(double score, const std::string& score_text, const Chooser& chooser,
                   const PrecisionRequest& request, std::span<const VariantView> variants,
                   const SystemState& state, const RouterConfig& config) {
  const double raw = state.queue_pressure;
  const double pressure =
      raw > kPressureStart ? (std::min(raw, 1.0) - kPressureStart) / (1 - kPressureStart) : 0;
  const int wanted = chooser.Choose(0);
  const auto raised = [&](int from) {
    return NearestAllowed(RaiseToCap(from, chooser, variants, request, config), variants, request);
  };
  const std::optional<int> calm = raised(wanted);
  if (!calm) {
    const int finest = static_cast<int>(variants.size()) - 1;
    return FallBack(score, finest, "", variants, request);
  }
  Decision d;
  d.variant = pressure > 0 ? *raised(chooser.Choose(pressure)) : *calm;
  d.score = score;
  const std::string& name = variants[d.variant].name;
  d.explanation = score_text;
  if (d.variant < *calm) {
    d.reason = Reason::kLoad;
    absl::StrAppend(&d.explanation, " asks for ", variants[*calm].name,
                    absl::StrFormat("; the queue is %.0f %% full, so ", 100 * std::min(raw, 1.0)),
                    name, " serves it.");
  } else if (d.variant != wanted) {
    d.reason = Reason::kFloor;
    absl::StrAppend(&d.explanation, " asks for ", variants[wanted].name, "; the floor ",
                    FloorText(request), d.variant > wanted ? " raises it to " : " allows only ",
                    name, ".");
  } else {
    absl::StrAppend(&d.explanation, ": ", name, " is enough.");
  }
  return d;
}

}  // namespace

std::string_view ReasonName(Reason reason) {
  switch (reason) {
    case Reason::kAuto:
      return "AUTO";
    case Reason::kPinned:
      return "PINNED";
    case Reason::kFloor:
      return "FLOOR";
    case Reason::kLoad:
      return "LOAD";
    case Reason::kEscalated:
      return "ESCALATED";
    case Reason::kFallback:
      return "FALLBACK";
    case Reason::kMemory:
      return "MEMORY";
  }
  return "UNKNOWN";
}

absl::Status CheckPrecision(const PrecisionRequest& request,
                            std::span<const VariantView> variants) {
  if (absl::Status status = Validate(request, variants); !status.ok()) return status;
  return request.mode == Mode::kPinned ? RoutePinned(0, request, variants).status()
                                       : CheckAuto(request, variants);
}

absl::StatusOr<Decision> Route(const TextFeatures& text, const PrefillSignals& prefill,
                               const PrecisionRequest& request,
                               std::span<const VariantView> variants, const SystemState& state,
                               const RouterConfig& config) {
  if (absl::Status status = CheckPrecision(request, variants); !status.ok()) return status;
  double score = 0, harm = 0;
  std::string score_text;
  if (config.predictor != nullptr) {
    harm = config.predictor->Harm(Features(text, prefill));
    score = config.predictor->Percentile(harm);
    score_text = absl::StrFormat("Complexity %.2f (harder than %.0f %% of the queries trained on)",
                                 score, 100 * score);
  } else {
    std::vector<Evidence> evidence = CollectEvidence(text, prefill);
    score = Combine(evidence);
    score_text = ScoreText(score, std::move(evidence));
  }
  auto decision = request.mode == Mode::kPinned
                      ? RoutePinned(score, request, variants)
                      : RouteAuto(score, score_text, Chooser(score, harm, variants, config),
                                  request, variants, state, config);
  if (config.predictor != nullptr) {
    const VariantView& chosen = variants[static_cast<size_t>(decision->variant)];
    decision->expected_kl = config.predictor->ExpectedKl(harm, chosen.bits_per_weight);
  }
  return decision;
}

int ProbeVariant(const PrecisionRequest& request, std::span<const VariantView> variants,
                 const RouterConfig& config) {
  if (config.predictor == nullptr || !config.predictor->UsesProbe()) return -1;
  if (request.mode == Mode::kPinned) return -1;
  if (config.policy.kind == Policy::Kind::kFixed && request.max_quality_loss == 0) return -1;
  const double trained = config.predictor->parts().probe_bits;
  for (size_t v = 0; v + 1 < variants.size(); ++v) {
    const double apart = std::abs(variants[v].bits_per_weight - trained);
    if (apart <= kProbeApart * trained) return static_cast<int>(v);
  }
  return -1;
}

std::vector<double> ExpectedLosses(const TextFeatures& text, const PrefillSignals& prefill,
                                   std::span<const VariantView> variants,
                                   const RouterConfig& config) {
  std::vector<double> losses;
  if (config.predictor == nullptr) return losses;
  const double harm = config.predictor->Harm(Features(text, prefill));
  for (const VariantView& v : variants) {
    losses.push_back(config.predictor->ExpectedKl(harm, v.bits_per_weight));
  }
  return losses;
}

}  // namespace lift::router
