// The router document of a lifted file. What is accepted predicts finite, ordered losses and
// routes.
#include <cmath>
#include <string>

#include "kernels/base/check.h"
#include "router/predictor.h"
#include "tests/fuzz/fuzz_target.h"

namespace lift {
namespace {

void Use(std::shared_ptr<const router::Predictor> predictor) {
  const auto again = router::Predictor::FromJson(predictor->ToJson());
  LIFT_CHECK(again.ok());
  router::TextFeatures text = router::ExtractTextFeatures("Prove that 2 + 2 = 4.");
  for (const bool read : {false, true}) {
    const router::PrefillSignals prefill{
        .available = read, .prompt_tokens = 9, .last_entropy = 2, .probe_kl = 0.3};
    const double harm = predictor->Harm(router::Features(text, prefill));
    LIFT_CHECK(std::isfinite(harm) && harm == (*again)->Harm(router::Features(text, prefill)));
    LIFT_CHECK(predictor->Percentile(harm) >= 0 && predictor->Percentile(harm) <= 1);
    double before = predictor->ExpectedKl(harm, 0.1);
    for (double bits = 0.5; bits < 20; bits += 0.5) {
      const double kl = predictor->ExpectedKl(harm, bits);
      LIFT_CHECK(std::isfinite(kl) && kl >= 0 && kl <= before);
      before = kl;
    }
    const std::vector<router::VariantView> variants = {
        {"q2", 0.25, 2, 0.4, 2}, {"q4", 0.5, 4, 0.03, 4}, {"q8", 0.75, 8, 0.001, 8}};
    for (const char* policy : {"balanced", "budget:4", "quality:0.01"}) {
      const router::RouterConfig config{*router::ParsePolicy(policy), predictor};
      const int probe = router::ProbeVariant({}, variants, config);
      LIFT_CHECK(probe >= -1 && probe < 2);
      LIFT_CHECK(router::Route(text, prefill, {}, variants, {0.8}, config).ok());
    }
  }
}

}  // namespace
}  // namespace lift

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  auto predictor = lift::router::Predictor::FromJson(text);
  if (predictor.ok()) {
    lift::Use(*std::move(predictor));
  } else {
    LIFT_CHECK(predictor.status().code() == absl::StatusCode::kInvalidArgument);
  }
  return 0;
}
