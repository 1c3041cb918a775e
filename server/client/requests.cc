#include "server/client/requests.h"

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"

namespace lift::client {
namespace {

// The text itself, or that of the file behind an '@'.
absl::StatusOr<std::string> TextOrFile(const char* flag, const std::string& value) {
  if (!value.starts_with('@')) return value;
  std::ifstream in(value.substr(1), std::ios::binary);
  if (!in) return absl::InvalidArgumentError(absl::StrCat(flag, " ", value, " cannot be read"));
  return std::string(std::istreambuf_iterator<char>(in), {});
}

absl::Status FillConstraint(const ConstraintFlags& flags, api::Constraint& constraint) {
  if (!flags.regex.empty()) {
    LIFT_ASSIGN_OR_RETURN(*constraint.mutable_regex(), TextOrFile("--regex", flags.regex));
  }
  if (!flags.json_schema.empty()) {
    LIFT_ASSIGN_OR_RETURN(*constraint.mutable_json_schema(),
                          TextOrFile("--json-schema", flags.json_schema));
  }
  if (!flags.grammar.empty()) {
    LIFT_ASSIGN_OR_RETURN(*constraint.mutable_grammar(), TextOrFile("--grammar", flags.grammar));
  }
  for (const std::string& choice : flags.choices) constraint.mutable_choices()->add_texts(choice);
  if (flags.json_object) constraint.set_json_object(true);
  return absl::OkStatus();
}

// What generate and chat share.
template <class Request>
absl::Status Fill(const ClientOptions& o, Request& request) {
  request.set_model(o.model);
  request.set_request_id(o.request_id);
  request.set_priority(o.priority);
  *request.mutable_precision() = ToPrecision(o);
  auto& sampling = *request.mutable_sampling();
  if (o.temperature) sampling.set_temperature(*o.temperature);
  if (o.top_p) sampling.set_top_p(*o.top_p);
  if (o.top_k) sampling.set_top_k(*o.top_k);
  if (o.min_p) sampling.set_min_p(*o.min_p);
  if (o.repetition_penalty) sampling.set_repetition_penalty(*o.repetition_penalty);
  if (o.presence_penalty) sampling.set_presence_penalty(*o.presence_penalty);
  if (o.frequency_penalty) sampling.set_frequency_penalty(*o.frequency_penalty);
  if (o.seed) sampling.set_seed(*o.seed);
  auto& stopping = *request.mutable_stopping();
  if (o.max_new_tokens) stopping.set_max_new_tokens(*o.max_new_tokens);
  if (o.min_new_tokens) stopping.set_min_new_tokens(*o.min_new_tokens);
  for (const std::string& stop : o.stop) stopping.add_stop_strings(stop);
  stopping.mutable_stop_token_ids()->Add(o.stop_token_ids.begin(), o.stop_token_ids.end());
  stopping.set_ignore_eos(o.ignore_eos);
  request.mutable_output()->set_token_ids(true);
  if (o.logprobs >= 0) {
    request.mutable_output()->set_logprobs(true);
    request.mutable_output()->set_top_logprobs(o.logprobs);
  }
  LIFT_ASSIGN_OR_RETURN(const auto biases, ParseLogitBias(o.logit_bias));
  for (const auto& [id, bias] : biases) (*sampling.mutable_logit_bias())[id] = bias;
  api::Constraint constraint;
  LIFT_RETURN_IF_ERROR(FillConstraint(o.constraint, constraint));
  if (constraint.kind_case() != api::Constraint::KIND_NOT_SET) {
    *request.mutable_constraint() = std::move(constraint);
  }
  return absl::OkStatus();
}

}  // namespace

api::PrecisionOptions ToPrecision(const ClientOptions& o) {
  api::PrecisionOptions precision;
  if (!o.variant.empty()) {
    precision.set_mode(api::PRECISION_MODE_PINNED);
    precision.set_variant(o.variant);
  }
  precision.set_min_lambda(o.min_lambda);
  precision.set_max_quality_loss(o.max_quality_loss);
  precision.set_allow_fallback(o.allow_fallback);
  return precision;
}

absl::StatusOr<api::GenerateStreamRequest> ToGenerate(const ClientOptions& o) {
  api::GenerateStreamRequest request;
  LIFT_RETURN_IF_ERROR(Fill(o, request));
  if (o.token_ids.empty()) {
    request.set_text(o.prompt);
  } else {
    request.mutable_token_ids()->mutable_ids()->Add(o.token_ids.begin(), o.token_ids.end());
  }
  request.set_parse_special_tokens(o.parse_special);
  return request;
}

absl::StatusOr<api::ChatStreamRequest> ToChat(const ClientOptions& o) {
  api::ChatStreamRequest request;
  LIFT_RETURN_IF_ERROR(Fill(o, request));
  const auto add = [&](const std::string& role, const std::string& content) {
    auto& message = *request.add_messages();
    message.set_role(role);
    message.set_content(content);
  };
  if (!o.system.empty()) add("system", o.system);
  if (o.messages_file.empty()) {
    add("user", o.prompt);
    return request;
  }
  std::ifstream in(o.messages_file);
  const auto list = nlohmann::json::parse(in, nullptr, /*allow_exceptions=*/false);
  const auto wrong = absl::InvalidArgumentError(
      absl::StrCat("--messages ", o.messages_file,
                   " must hold [{\"role\": \"user\", \"content\": \"...\"}, ...]"));
  if (!list.is_array()) return wrong;
  for (const auto& entry : list) {
    if (!entry.is_object() || !entry.contains("role") || !entry.contains("content") ||
        !entry["role"].is_string() || !entry["content"].is_string()) {
      return wrong;
    }
    add(entry["role"].get<std::string>(), entry["content"].get<std::string>());
  }
  return request;
}

}  // namespace lift::client
