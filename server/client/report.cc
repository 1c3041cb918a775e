#include "server/client/report.h"

#include <google/protobuf/util/json_util.h>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace lift::client {
namespace {

using nlohmann::json;

// "ROUTING_REASON_AUTO" -> "AUTO".
std::string WithoutPrefix(const std::string& name, size_t prefix) {
  return name.size() > prefix ? name.substr(prefix) : name;
}
std::string ReasonName(api::RoutingReason reason) {
  return WithoutPrefix(api::RoutingReason_Name(reason), sizeof("ROUTING_REASON_") - 1);
}
std::string ReasonName(api::FinishReason reason) {
  return WithoutPrefix(api::FinishReason_Name(reason), sizeof("FINISH_REASON_") - 1);
}

json ServedByJson(const api::ServedBy& s) {
  json out{{"model", s.model()},
           {"weights_sha256", s.weights_sha256()},
           {"variant", s.variant()},
           {"lambda", s.lambda()},
           {"bits_per_weight", s.bits_per_weight()},
           {"kv_format", s.kv_format()},
           {"device", s.device()},
           {"router_version", s.router_version()},
           {"complexity_score", s.complexity_score()},
           {"reason", ReasonName(s.reason())},
           {"explanation", s.explanation()},
           {"system_fingerprint", s.system_fingerprint()}};
  if (!s.fallback_from().empty()) out["fallback_from"] = s.fallback_from();
  if (s.has_calibrated_kl()) out["calibrated_kl"] = s.calibrated_kl();
  return out;
}

json LogprobsJson(const std::vector<api::PositionLogprobs>& positions) {
  const auto token = [](const api::TokenLogprob& t) {
    return json{{"token_id", t.token_id()}, {"logprob", t.logprob()}};
  };
  json out = json::array();
  for (const auto& position : positions) {
    json entry = token(position.chosen());
    entry["top"] = json::array();
    for (const auto& best : position.top()) entry["top"].push_back(token(best));
    out.push_back(std::move(entry));
  }
  return out;
}

}  // namespace

json AnswerJson(const Answer& answer) {
  const api::Usage& usage = answer.finished.usage();
  const api::Timings& timings = answer.finished.timings();
  json out{{"request_id", answer.started.request_id()},
           {"text", answer.text},
           {"token_ids", answer.token_ids},
           {"served_by", ServedByJson(answer.started.served_by())},
           {"finish_reason", ReasonName(answer.finished.reason())},
           {"matched_stop", answer.finished.matched_stop()},
           {"seed_used", answer.finished.seed_used()},
           {"usage",
            {{"prompt_tokens", usage.prompt_tokens()},
             {"generated_tokens", usage.generated_tokens()},
             {"cached_tokens", usage.cached_tokens()},
             {"weight_byte_seconds", usage.weight_byte_seconds()},
             {"kv_byte_seconds", usage.kv_byte_seconds()}}},
           {"timings",
            {{"queue_seconds", timings.queue_seconds()},
             {"prefill_seconds", timings.prefill_seconds()},
             {"decode_seconds", timings.decode_seconds()},
             {"time_to_first_token_seconds", timings.time_to_first_token_seconds()},
             {"total_seconds", timings.total_seconds()}}}};
  if (!answer.logprobs.empty()) out["logprobs"] = LogprobsJson(answer.logprobs);
  return out;
}

std::string AnswerSummary(const Answer& answer) {
  const api::ServedBy& served = answer.started.served_by();
  const api::Usage& usage = answer.finished.usage();
  const api::Timings& timings = answer.finished.timings();
  constexpr double kMb = 1e6;
  return absl::StrFormat(
      "served by %s (lambda %.3f, %.2f bits/weight): %s, score %.2f; %s\n"
      "%d prompt + %d generated tokens, %s; first token %.3f s, total %.3f s; "
      "memory x time: weights %.2f MB*s, state %.2f MB*s\n",
      served.variant(), served.lambda(), served.bits_per_weight(), ReasonName(served.reason()),
      served.complexity_score(), served.explanation(), usage.prompt_tokens(),
      usage.generated_tokens(), ReasonName(answer.finished.reason()),
      timings.time_to_first_token_seconds(), timings.total_seconds(),
      usage.weight_byte_seconds() / kMb, usage.kv_byte_seconds() / kMb);
}

std::string ErrorText(const grpc::Status& status) {
  std::string reason;
  google::rpc::Status rich;
  google::rpc::ErrorInfo info;
  if (rich.ParseFromString(status.error_details())) {
    for (const auto& detail : rich.details()) {
      if (detail.UnpackTo(&info)) reason = absl::StrCat(" (", info.reason(), ")");
    }
  }
  const auto code = static_cast<absl::StatusCode>(status.error_code());
  return absl::StrCat(absl::StatusCodeToString(code), reason, ": ", status.error_message());
}

std::string MessageJson(const google::protobuf::Message& message, bool pretty) {
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = pretty;
  options.always_print_primitive_fields = true;
  std::string out;
  // Cannot fail for a message that was parsed: its strings are valid UTF-8.
  (void)google::protobuf::util::MessageToJsonString(message, &out, options);
  return out;
}

}  // namespace lift::client
