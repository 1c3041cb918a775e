#include "server/rpc/explain.h"

#include "router/draft.h"
#include "server/errors.h"
#include "server/rpc/events.h"
#include "server/rpc/translate.h"

namespace lift::rpc {
namespace {

absl::StatusOr<Prompt> PromptOf(const ServiceContext& services,
                                const api::ExplainRouteRequest& request) {
  switch (request.prompt_case()) {
    case api::ExplainRouteRequest::kText:
      return TextPrompt(services, request.text(), /*parse_special=*/false);
    case api::ExplainRouteRequest::kTokenIds:
      return TokenPrompt(services, request.token_ids());
    case api::ExplainRouteRequest::kChat:
      return ChatPrompt(services, request.chat().messages());
    default:
      return WithReason(
          absl::InvalidArgumentError("prompt is missing; set text, token_ids or chat"),
          "INVALID_FIELD", "prompt");
  }
}

}  // namespace

absl::Status Explain(const ServiceContext& services, const api::ExplainRouteRequest& request,
                     api::ExplainRouteResponse& response) {
  LIFT_RETURN_IF_ERROR(CheckModel(services, request.model()));
  LIFT_ASSIGN_OR_RETURN(const Prompt prompt, PromptOf(services, request));
  LIFT_ASSIGN_OR_RETURN(const router::PrecisionRequest precision, ToPrecision(request.precision()));
  const std::vector<router::VariantView> views = services.engine.variant_views();
  const router::RouterConfig& config = services.engine.router();
  const router::TextFeatures features = router::ExtractTextFeatures(prompt.text, prompt.turns);
  const router::PrefillSignals no_prefill;
  LIFT_ASSIGN_OR_RETURN(const router::Decision decision,
                        router::Route(features, no_prefill, precision, views, {}, config));

  *response.mutable_served_by() =
      ToServedBy(services.model, services.shared.build, decision, decision.variant);
  response.set_prompt_tokens(static_cast<int64_t>(prompt.ids.size()));
  response.set_prefill_used(false);
  const std::vector<router::DraftPlan> plans = router::PlanDrafts(views, config);
  const std::vector<double> losses = router::ExpectedLosses(features, no_prefill, views, config);
  for (size_t i = 0; i < views.size(); ++i) {
    const VariantInfo& info = services.model.variants.at(i);
    auto& assessment = *response.add_variants();
    assessment.set_variant(info.name);
    assessment.set_lambda(info.lambda);
    assessment.set_bits_per_weight(info.bits_per_weight);
    assessment.set_bytes(info.bytes);
    if (info.kl >= 0) assessment.set_calibrated_kl(info.kl);
    if (!losses.empty()) assessment.set_expected_kl(losses[i]);
    assessment.set_read_bits_per_weight(plans[i].bits);
    if (plans[i].variant >= 0) {
      assessment.set_draft_variant(views[static_cast<size_t>(plans[i].variant)].name);
      assessment.set_draft_tokens(plans[i].tokens);
    }
    assessment.set_chosen(static_cast<int>(i) == decision.variant);
    // The router itself judges: would it serve this variant if it were pinned under the same
    // floors?
    router::PrecisionRequest pinned = precision;
    pinned.mode = router::Mode::kPinned;
    pinned.variant = info.name;
    pinned.allow_fallback = false;
    const absl::Status judged = router::CheckPrecision(pinned, views);
    assessment.set_allowed(judged.ok());
    if (!judged.ok()) assessment.set_refusal(std::string(judged.message()));
  }
  return absl::OkStatus();
}

}  // namespace lift::rpc
