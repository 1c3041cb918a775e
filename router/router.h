// The router: a pure function from what a request says and what prefill saw to a precision. It
// never sees who is asking: no type in this header can carry an identity.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace lift::router {

// From the prompt text alone. All counts are of the last user turn unless said otherwise.
struct TextFeatures {
  int64_t bytes = 0, words = 0, lines = 0, sentences = 0;
  double mean_word_length = 0, distinct_word_ratio = 0;
  double digit_ratio = 0, symbol_ratio = 0, non_ascii_ratio = 0;
  bool has_code = false, has_math = false, has_list = false, is_question = false;
  int64_t reasoning_words = 0;  // prove, explain, compare, derive, step by step, ...
  int64_t turns = 1;            // conversation depth
};
TextFeatures ExtractTextFeatures(std::string_view text, int64_t turns = 1);

// From the logits prefill computed at the finest variant (next-token distributions over the
// prompt), and from the probe: its last token computed at a coarse variant, too.
struct PrefillSignals {
  bool available = false;
  int64_t prompt_tokens = 0;
  double mean_nll = 0;      // nats per prompt token (0 if only the last position was computed)
  double last_entropy = 0;  // nats, of the distribution after the prompt
  double last_margin = 0;   // top-1 minus top-2 probability
  double probe_kl = -1;     // nats, KL(finest || probing variant) after the prompt; -1 = no probe
};
// Entropy and margin of one distribution given its logits.
PrefillSignals SignalsFromLogits(std::span<const float> last_logits, int64_t prompt_tokens);
// KL of two distributions over the same tokens given their logits, nats; -1 where either is none.
double KlOfLogits(std::span<const float> fine, std::span<const float> coarse);

// What the router may know of a variant.
struct VariantView {
  std::string name = {};
  double lambda = 0, bits_per_weight = 0;
  double kl = -1;  // calibrated, nats; -1 unknown
  uint64_t bytes = 0;
};

enum class Mode { kAuto, kPinned };

struct PrecisionRequest {
  Mode mode = Mode::kAuto;
  std::string variant = {};     // for kPinned
  double min_lambda = 0;        // floor; 0 = none
  double max_quality_loss = 0;  // cap on calibrated KL in nats; 0 = none
  bool allow_fallback =
      false;  // a floor that cannot be met may fall back to the finest instead of being refused
};

struct SystemState {
  double queue_pressure = 0;  // 0 idle .. 1 saturated
};

class Predictor;  // predictor.h

// What AUTO aims at. A policy is the operator's, the same for everybody.
struct Policy {
  enum class Kind {
    kBalanced,  // kBudget half-way between the coarsest fit variant and the finest worth having;
                // without a predictor the complexity score takes the place of expected loss
    kBudget,    // so many plane bits per weight on average over queries like those trained on
    kQuality,   // the cheapest variant whose expected loss is within a cap
    kFixed,     // one variant for all
  };
  Kind kind = Kind::kBalanced;
  double budget_bits = 0;    // kBudget
  double max_loss = 0;       // kQuality, nats
  std::string variant = {};  // kFixed; the finest while it is not resident
};
// "balanced", "budget:BITS", "quality:NATS" or "fixed:VARIANT" -> a policy, and back.
// INVALID_ARGUMENT saying what is allowed.
absl::StatusOr<Policy> ParsePolicy(std::string_view text);
std::string PolicyName(const Policy& policy);

// How a server routes: one policy over one model's predictor. Immutable.
struct RouterConfig {
  Policy policy = {};
  std::shared_ptr<const Predictor> predictor = nullptr;  // null: the hand-made score
  // Tokens that decoding may guess ahead (draft.h): budgets then count what is read with guesses.
  int most_drafts = 0;
  // Names the rules that decide: "heuristic-1/balanced", "trained-9f86d081884c/budget:4",
  // "trained-9f86d081884c/budget:4/guess:2".
  std::string Version() const;
};

enum class Reason { kAuto, kPinned, kFloor, kLoad, kEscalated, kFallback, kMemory };
std::string_view ReasonName(Reason reason);  // "AUTO", "PINNED", ...

struct Decision {
  int variant = 0;   // index into the variants given
  double score = 0;  // complexity in [0, 1]
  Reason reason = Reason::kAuto;
  std::string explanation = {};    // one line for people
  std::string fallback_from = {};  // variant that was asked for, if reason is kFallback
  double expected_kl = -1;  // of this variant on this query, nats, to the finest; -1 = unknown
};

inline constexpr std::string_view kRouterVersion = "heuristic-1";

// The hand-made complexity in [0, 1], monotone in each signal. Weights are documented in README.md.
double ComplexityScore(const TextFeatures& text, const PrefillSignals& prefill);

// The variant that computes the last token of a request's prompt once more, before the finest one
// does, for PrefillSignals::probe_kl; -1 where Route would not look at it or there is no variant as
// the predictor was trained with.
int ProbeVariant(const PrecisionRequest& request, std::span<const VariantView> variants,
                 const RouterConfig& config);

// What Route would refuse, whatever the prompt, the load and the policy; much cheaper than it.
absl::Status CheckPrecision(const PrecisionRequest& request, std::span<const VariantView> variants);

// variants: ascending precision, at least one. NOT_FOUND for an unknown pinned variant;
// FAILED_PRECONDITION (message starts with PRECISION_FLOOR_UNAVAILABLE) if no resident variant
// satisfies the floor and fallback is not allowed. A pinned variant below its own floor is
// FAILED_PRECONDITION too. Deterministic. More bits are never chosen for a smaller budget, a larger
// cap, more pressure or, everything else being equal, a query of less harm.
absl::StatusOr<Decision> Route(const TextFeatures& text, const PrefillSignals& prefill,
                               const PrecisionRequest& request,
                               std::span<const VariantView> variants, const SystemState& state,
                               const RouterConfig& config = {});

// The coarsest variant that AUTO uses; coarser ones degrade text visibly and are left to those who
// pin them. The first one if none is fit, or some were not measured.
size_t FirstFitVariant(std::span<const VariantView> variants);

// What each variant is expected to lose on this query, nats of KL to the finest one; empty without
// a predictor.
std::vector<double> ExpectedLosses(const TextFeatures& text, const PrefillSignals& prefill,
                                   std::span<const VariantView> variants,
                                   const RouterConfig& config);

// Lets the precision of one answer rise while it is generated, when the variant that decodes it
// turns unsure. Equal distributions give equal rises, so what was served can be computed again.
class Escalation {
 public:
  // entropy: nats. From a moving average of this much on, precision rises; 0 = never.
  explicit Escalation(double entropy) : entropy_(entropy) {}
  // Folds in the distribution that followed a token computed at `variant` and returns the variant
  // for the next tokens: the same one, or the next finer of `variants` (ascending precision). A
  // pinned request stays where it is; nothing rises past a loss nobody could notice, nor again
  // before the finer variant has been seen for a few tokens.
  int Next(int variant, std::span<const float> logits, const PrecisionRequest& request,
           std::span<const VariantView> variants);
  // The same of a distribution whose entropy is known, nats.
  int NextByEntropy(int variant, double entropy, const PrecisionRequest& request,
                    std::span<const VariantView> variants);

 private:
  // False where nothing could rise, so that entropies need not be computed.
  bool Watches(int variant, const PrecisionRequest& request,
               std::span<const VariantView> variants) const;

  double entropy_;
  double average_ = 0;
  int64_t seen_ = 0;  // tokens at this variant
};

}  // namespace lift::router
