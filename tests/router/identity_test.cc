// Who asks must not be able to change what precision he gets: the router's inputs have no room for
// an identity.
#include <gtest/gtest.h>

#include <type_traits>

#include "router/features.h"
#include "router/predictor.h"
#include "router/router.h"

namespace lift::router {
namespace {

template <typename T>
concept NamesSomeone = requires(T t) {
  t.tenant;
}
|| requires(T t) { t.user; }
|| requires(T t) { t.api_key; }
|| requires(T t) { t.account; }
|| requires(T t) { t.client; }
|| requires(T t) { t.peer; }
|| requires(T t) { t.request_id; }
|| requires(T t) { t.metadata; }
|| requires(T t) { t.id; };

static_assert(!NamesSomeone<TextFeatures>);
static_assert(!NamesSomeone<PrefillSignals>);
static_assert(!NamesSomeone<PrecisionRequest>);
static_assert(!NamesSomeone<VariantView>);
static_assert(!NamesSomeone<SystemState>);
static_assert(!NamesSomeone<Policy>);
static_assert(!NamesSomeone<RouterConfig>);
static_assert(std::is_same_v<FeatureVector, std::array<double, kFeatureCount>>);

// The only strings that reach Route are the names of variants: everything else is a number, a flag
// or an enum. A field added to these types must be added here, in sight of the rule above.
template <typename... Fields>
constexpr bool kNumbersOnly = (std::is_arithmetic_v<std::remove_cvref_t<Fields>> && ...);

constexpr bool TextIsNumbers() {
  TextFeatures t;
  auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o] = t;
  return kNumbersOnly<decltype(a), decltype(b), decltype(c), decltype(d), decltype(e), decltype(f),
                      decltype(g), decltype(h), decltype(i), decltype(j), decltype(k), decltype(l),
                      decltype(m), decltype(n), decltype(o)>;
}
constexpr bool SignalsAreNumbers() {
  PrefillSignals p;
  auto& [a, b, c, d, e, f] = p;
  return kNumbersOnly<decltype(a), decltype(b), decltype(c), decltype(d), decltype(e), decltype(f)>;
}
constexpr bool StateIsNumbers() {
  SystemState s;
  auto& [a] = s;
  return kNumbersOnly<decltype(a)>;
}
// A predictor's only text is its version and its report, and they are the file's, not a request's.
constexpr bool PredictorIsNumbers() {
  Predictor::Knot knot;
  auto& [a, b, c] = knot;
  return kNumbersOnly<decltype(a), decltype(b), decltype(c)>;
}
static_assert(PredictorIsNumbers());
static_assert(TextIsNumbers() && SignalsAreNumbers() && StateIsNumbers());

TEST(RouterIdentity, PrecisionRequestHasFiveFieldsAndNoIdentity) {
  PrecisionRequest request;
  auto& [mode, variant, min_lambda, max_quality_loss, allow_fallback] = request;
  EXPECT_EQ(mode, Mode::kAuto);
  EXPECT_TRUE(variant.empty());
  EXPECT_EQ(min_lambda + max_quality_loss, 0);
  EXPECT_FALSE(allow_fallback);
}

}  // namespace
}  // namespace lift::router
