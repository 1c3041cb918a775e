#include "server/rpc/events.h"

#include "absl/strings/str_cat.h"
#include "kernels/base/mapped_file.h"
#include "server/errors.h"
#include "server/metrics/usage_totals.h"

namespace lift::rpc {
namespace {

api::RoutingReason ToReason(router::Reason reason) {
  switch (reason) {
    case router::Reason::kAuto:
      return api::ROUTING_REASON_AUTO;
    case router::Reason::kPinned:
      return api::ROUTING_REASON_PINNED;
    case router::Reason::kFloor:
      return api::ROUTING_REASON_FLOOR;
    case router::Reason::kLoad:
      return api::ROUTING_REASON_LOAD;
    case router::Reason::kEscalated:
      return api::ROUTING_REASON_ESCALATED;
    case router::Reason::kFallback:
      return api::ROUTING_REASON_FALLBACK;
    case router::Reason::kMemory:
      return api::ROUTING_REASON_MEMORY;
  }
  return api::ROUTING_REASON_UNSPECIFIED;
}

api::FinishReason ToReason(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return api::FINISH_REASON_STOP;
    case FinishReason::kLength:
      return api::FINISH_REASON_LENGTH;
    case FinishReason::kCancelled:
      return api::FINISH_REASON_CANCELLED;
    case FinishReason::kDeadline:
      return api::FINISH_REASON_DEADLINE;
    case FinishReason::kError:
      return api::FINISH_REASON_ERROR;
    case FinishReason::kDrained:
      return api::FINISH_REASON_DRAINED;
  }
  return api::FINISH_REASON_UNSPECIFIED;
}

// Everything that fixes the numbers: weights, precision, state format, device and the program's
// version.
std::string Fingerprint(const ModelInfo& model, const BuildInfo& build,
                        const std::string& variant) {
  const std::string text = absl::StrCat(model.weights_sha256, "|", variant, "|", model.kv_format,
                                        "|", model.device, "|", build.version);
  const auto bytes = std::as_bytes(std::span(text.data(), text.size()));
  return absl::StrCat("ls_", Sha256Hex(bytes).substr(0, 16));
}

}  // namespace

api::ServedBy ToServedBy(const ModelInfo& model, const BuildInfo& build,
                         const router::Decision& decision, int variant) {
  const VariantInfo& info = model.variants.at(static_cast<size_t>(variant));
  api::ServedBy served;
  served.set_model(model.name);
  served.set_weights_sha256(model.weights_sha256);
  served.set_variant(info.name);
  served.set_lambda(info.lambda);
  served.set_bits_per_weight(info.bits_per_weight);
  served.set_kv_format(model.kv_format);
  served.set_device(model.device);
  served.set_router_version(model.router_version);
  served.set_complexity_score(decision.score);
  served.set_reason(ToReason(decision.reason));
  served.set_fallback_from(decision.fallback_from);
  if (info.kl >= 0) served.set_calibrated_kl(info.kl);
  if (decision.expected_kl >= 0) served.set_expected_kl(decision.expected_kl);
  served.set_system_fingerprint(Fingerprint(model, build, info.name));
  served.set_explanation(decision.explanation);
  return served;
}

api::Finished ToFinished(const ModelInfo& model, const FinishedEvent& event) {
  api::Finished finished;
  finished.set_reason(ToReason(event.reason));
  finished.set_matched_stop(event.matched_stop);
  finished.set_seed_used(event.seed_used);
  for (const PrecisionSpan& span : event.spans) {
    auto& out = *finished.add_spans();
    out.set_variant(model.variants.at(static_cast<size_t>(span.variant)).name);
    out.set_tokens(span.tokens);
    out.set_reason(ToReason(span.reason));
  }
  api::Usage& usage = *finished.mutable_usage();
  usage.set_prompt_tokens(event.usage.prompt_tokens);
  usage.set_generated_tokens(event.usage.generated_tokens);
  usage.set_cached_tokens(event.usage.cached_tokens);
  usage.set_weight_byte_seconds(ByteSeconds(event.usage.weight_byte_us));
  usage.set_kv_byte_seconds(ByteSeconds(event.usage.kv_byte_us));
  if (event.choices.size() > 1) {
    for (size_t i = 0; i < event.choices.size(); ++i) {
      *finished.add_choices() = ToChoiceEnd(event.choices[i], static_cast<int>(i));
    }
  }
  api::Timings& timings = *finished.mutable_timings();
  timings.set_queue_seconds(event.timings.queue_seconds);
  timings.set_prefill_seconds(event.timings.prefill_seconds);
  timings.set_decode_seconds(event.timings.decode_seconds);
  timings.set_time_to_first_token_seconds(event.timings.ttft_seconds);
  timings.set_total_seconds(event.timings.total_seconds);
  return finished;
}

api::ChoiceEnd ToChoiceEnd(const ChoiceEnd& end, int index) {
  api::ChoiceEnd out;
  out.set_index(index);
  out.set_reason(ToReason(end.reason));
  out.set_matched_stop(end.matched_stop);
  out.set_seed_used(end.seed_used);
  out.set_generated_tokens(end.generated_tokens);
  return out;
}

api::PositionLogprobs ToLogprobs(const SampledToken& token) {
  api::PositionLogprobs position;
  position.mutable_chosen()->set_token_id(token.id);
  position.mutable_chosen()->set_logprob(token.logprob);
  for (const TokenLogprob& entry : token.top) {
    auto* best = position.add_top();
    best->set_token_id(entry.id);
    best->set_logprob(entry.logprob);
  }
  return position;
}

std::map<std::string, std::string> ServedByMetadata(const std::string& request_id,
                                                    const api::ServedBy& served_by) {
  return {{"liftserve-request-id", request_id},
          {"liftserve-model", served_by.model()},
          {"liftserve-variant", served_by.variant()},
          {"liftserve-lambda", absl::StrCat(served_by.lambda())},
          {"liftserve-reason",
           api::RoutingReason_Name(served_by.reason()).substr(sizeof("ROUTING_REASON_") - 1)},
          {"liftserve-fingerprint", served_by.system_fingerprint()}};
}

absl::Status FinalStatus(const FinishedEvent& event, bool aborting) {
  switch (event.reason) {
    case FinishReason::kStop:
    case FinishReason::kLength:
      return absl::OkStatus();
    case FinishReason::kCancelled:
      if (!aborting) {
        return WithReason(absl::CancelledError("the request was cancelled"), "REQUEST_CANCELLED");
      }
      [[fallthrough]];
    case FinishReason::kDrained:
      return WithReason(absl::UnavailableError("DRAINING: the server stopped before the answer was "
                                               "complete; send the request again"),
                        "DRAINING");
    case FinishReason::kDeadline:
      return WithReason(absl::DeadlineExceededError("the deadline passed before the answer was "
                                                    "complete; give the call more time"),
                        "DEADLINE_EXCEEDED");
    case FinishReason::kError:
      break;
  }
  return event.status.ok() ? absl::InternalError("the engine failed") : event.status;
}

}  // namespace lift::rpc
