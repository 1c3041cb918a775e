#include "server/rpc/translate.h"

#include <algorithm>
#include <cctype>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/engine/admission.h"
#include "server/errors.h"
#include "server/tokenizer/chat_prompt.h"

namespace lift::rpc {
namespace {

template <class... Parts>
absl::Status BadField(absl::string_view field, const Parts&... parts) {
  return WithReason(absl::InvalidArgumentError(absl::StrCat(field, " ", parts...)), "INVALID_FIELD",
                    field);
}

bool AllOf(absl::string_view text, absl::string_view punctuation) {
  return std::all_of(text.begin(), text.end(), [&](unsigned char c) {
    return c < 128 &&
           (std::isalnum(c) || punctuation.find(static_cast<char>(c)) != punctuation.npos);
  });
}

// random_device is thread-safe when each caller has its own.
uint64_t RandomBits() {
  std::random_device device;
  return static_cast<uint64_t>(device()) << 32 | device();
}

absl::Status CheckPromptBytes(const ServiceContext& context, absl::string_view field,
                              size_t bytes) {
  if (bytes <= context.shared.limits.prompt_bytes) return absl::OkStatus();
  return BadField(field, "has ", bytes, " bytes; at most ", context.shared.limits.prompt_bytes,
                  " are accepted");
}

absl::Status CheckTokenCount(const ServiceContext& context, absl::string_view field,
                             size_t tokens) {
  if (tokens == 0) return BadField(field, "is empty; give at least one token");
  const int64_t cap = context.shared.limits.max_prompt_tokens;
  if (cap > 0 && static_cast<int64_t>(tokens) > cap) {
    return BadField(field, "has ", tokens, " tokens; this server accepts prompts of at most ", cap);
  }
  if (static_cast<int64_t>(tokens) < context.model.max_context) return absl::OkStatus();
  return BadField(field, "has ", tokens, " tokens; the model's context of ",
                  context.model.max_context, " must also hold the answer");
}

// Errors of the tokenizer are about the text the client sent.
absl::Status AboutField(absl::Status status, absl::string_view field) {
  if (status.code() == absl::StatusCode::kInvalidArgument && ErrorField(status).empty()) {
    return WithReason(std::move(status), "INVALID_FIELD", field);
  }
  return status;
}

absl::Status CheckMessages(const ServiceContext& context,
                           const google::protobuf::RepeatedPtrField<api::ChatMessage>& messages) {
  if (messages.empty()) return BadField("messages", "is empty; give at least one message");
  if (messages.size() > context.shared.limits.chat_messages) {
    return BadField("messages", "has ", messages.size(), " entries; at most ",
                    context.shared.limits.chat_messages, " are accepted");
  }
  size_t bytes = 0;
  for (int i = 0; i < messages.size(); ++i) {
    const std::string& role = messages[i].role();
    if (role.empty() || role.size() > 32 || !AllOf(role, "_-")) {
      return BadField(absl::StrCat("messages[", i, "].role"),
                      "must be 1 to 32 of [A-Za-z0-9_-], e.g. \"user\"");
    }
    bytes += messages[i].content().size();
  }
  return CheckPromptBytes(context, "messages", bytes);
}

// Which request field the sampler's complaint names.
std::string SamplingField(absl::string_view message) {
  for (const char* name :
       {"temperature", "top_logprobs", "top_p", "top_k", "min_p", "repetition_penalty",
        "presence_penalty", "frequency_penalty", "logit_bias"}) {
    if (message.find(name) == absl::string_view::npos) continue;
    return absl::StrCat(absl::string_view(name) == "top_logprobs" ? "output." : "sampling.", name);
  }
  return "sampling";
}

absl::StatusOr<SamplingParams> ToSampling(const ServiceContext& context,
                                          const api::SamplingOptions& options,
                                          const api::OutputOptions& output) {
  SamplingParams params;
  if (options.has_temperature()) params.temperature = options.temperature();
  if (options.has_top_p()) params.top_p = options.top_p();
  if (options.has_top_k()) params.top_k = options.top_k();
  if (options.has_min_p()) params.min_p = options.min_p();
  if (options.has_repetition_penalty()) params.repetition_penalty = options.repetition_penalty();
  if (options.has_presence_penalty()) params.presence_penalty = options.presence_penalty();
  if (options.has_frequency_penalty()) params.frequency_penalty = options.frequency_penalty();
  params.seed = options.has_seed() ? options.seed() : RandomBits();
  if (options.logit_bias_size() > context.shared.limits.logit_bias) {
    return BadField("sampling.logit_bias", "has ", options.logit_bias_size(), " entries; at most ",
                    context.shared.limits.logit_bias, " are accepted");
  }
  params.logit_bias.insert(options.logit_bias().begin(), options.logit_bias().end());
  if (output.top_logprobs() < 0 || output.top_logprobs() > context.shared.limits.top_logprobs) {
    return BadField("output.top_logprobs", "is ", output.top_logprobs(), "; it must be from 0 to ",
                    context.shared.limits.top_logprobs);
  }
  if (output.top_logprobs() > 0 && !output.logprobs() && !output.prompt_logprobs()) {
    return BadField("output.top_logprobs", "needs output.logprobs or output.prompt_logprobs");
  }
  if (output.logprobs()) params.top_logprobs = output.top_logprobs();
  if (absl::Status status = params.Validate(context.model.vocab_size); !status.ok()) {
    return WithReason(status, "INVALID_FIELD", SamplingField(status.message()));
  }
  return params;
}

absl::StatusOr<StoppingParams> ToStopping(const ServiceContext& context,
                                          const api::StoppingOptions& options,
                                          int64_t prompt_tokens) {
  const Limits& limits = context.shared.limits;
  const int64_t room = context.model.max_context - prompt_tokens;
  StoppingParams params;
  params.max_new_tokens = options.has_max_new_tokens()
                              ? options.max_new_tokens()
                              : std::min(limits.default_max_new_tokens, room);
  const int64_t cap = limits.max_answer_tokens;
  if (cap > 0 && !options.has_max_new_tokens()) {
    params.max_new_tokens = std::min(params.max_new_tokens, cap);
  }
  if (cap > 0 && params.max_new_tokens > cap) {
    return BadField("stopping.max_new_tokens", "is ", params.max_new_tokens,
                    "; this server generates at most ", cap);
  }
  params.min_new_tokens = options.min_new_tokens();
  params.ignore_eos = options.ignore_eos();
  if (params.max_new_tokens < 1 || params.max_new_tokens > room) {
    return BadField("stopping.max_new_tokens", "is ", params.max_new_tokens,
                    "; it must be from 1 to ", room, ", what the context of ",
                    context.model.max_context, " leaves after ", prompt_tokens, " prompt tokens");
  }
  if (params.min_new_tokens < 0 || params.min_new_tokens > params.max_new_tokens) {
    return BadField("stopping.min_new_tokens", "is ", params.min_new_tokens,
                    "; it must be from 0 to max_new_tokens");
  }
  if (options.stop_strings_size() > limits.stop_strings) {
    return BadField("stopping.stop_strings", "has ", options.stop_strings_size(),
                    " entries; at most ", limits.stop_strings, " are accepted");
  }
  for (const std::string& stop : options.stop_strings()) {
    if (stop.empty() || stop.size() > limits.stop_string_bytes) {
      return BadField("stopping.stop_strings", "has an entry of ", stop.size(),
                      " bytes; each must have 1 to ", limits.stop_string_bytes);
    }
    params.stop_strings.push_back(stop);
  }
  if (options.stop_token_ids_size() > limits.stop_token_ids) {
    return BadField("stopping.stop_token_ids", "has ", options.stop_token_ids_size(),
                    " entries; at most ", limits.stop_token_ids, " are accepted");
  }
  for (int32_t id : options.stop_token_ids()) {
    if (id < 0 || id >= context.model.vocab_size) {
      return BadField("stopping.stop_token_ids", "names token ", id, "; the vocabulary has ",
                      context.model.vocab_size);
    }
    params.stop_token_ids.push_back(id);
  }
  return params;
}

// Null for none. Checks the syntax; the engine compiles it.
ConstraintSource::Result ToConstraint(const api::Constraint& constraint) {
  switch (constraint.kind_case()) {
    case api::Constraint::kJsonSchema:
      return ConstraintSource::JsonSchema(constraint.json_schema());
    case api::Constraint::kRegex:
      return ConstraintSource::Regex(constraint.regex());
    case api::Constraint::kGrammar:
      return ConstraintSource::Ebnf(constraint.grammar());
    case api::Constraint::kChoices:
      return ConstraintSource::Choices(
          {constraint.choices().texts().begin(), constraint.choices().texts().end()});
    case api::Constraint::kJsonObject:
      if (constraint.json_object()) return ConstraintSource::JsonObject();
      return nullptr;
    case api::Constraint::KIND_NOT_SET:
      break;
  }
  return nullptr;
}

}  // namespace

absl::StatusOr<Prompt> TextPrompt(const ServiceContext& context, const std::string& text,
                                  bool parse_special) {
  if (text.empty()) return BadField("text", "is empty; give something to continue");
  LIFT_RETURN_IF_ERROR(CheckPromptBytes(context, "text", text.size()));
  auto ids = context.tokenizer->Encode(text, {.add_special = true, .parse_special = parse_special});
  if (!ids.ok()) return AboutField(ids.status(), "text");
  LIFT_RETURN_IF_ERROR(CheckTokenCount(context, "text", ids->size()));
  return Prompt{*std::move(ids), text, 1};
}

absl::StatusOr<Prompt> TokenPrompt(const ServiceContext& context, const api::TokenIds& ids) {
  LIFT_RETURN_IF_ERROR(
      CheckTokenCount(context, "token_ids.ids", static_cast<size_t>(ids.ids_size())));
  for (int32_t id : ids.ids()) {
    if (id < 0 || id >= context.model.vocab_size) {
      return BadField("token_ids.ids", "names token ", id, "; the vocabulary has ",
                      context.model.vocab_size);
    }
  }
  Prompt prompt{{ids.ids().begin(), ids.ids().end()}, "", 1};
  auto text = context.tokenizer->Decode(prompt.ids, /*skip_special=*/true);
  if (!text.ok()) return AboutField(text.status(), "token_ids.ids");
  prompt.text = *std::move(text);
  return prompt;
}

absl::StatusOr<Prompt> ChatPrompt(
    const ServiceContext& context,
    const google::protobuf::RepeatedPtrField<api::ChatMessage>& messages) {
  if (context.chat_template == nullptr) {
    return WithReason(absl::FailedPreconditionError(absl::StrCat(
                          "model '", context.model.name, "' has no chat template; use Generate")),
                      "NO_CHAT_TEMPLATE");
  }
  LIFT_RETURN_IF_ERROR(CheckMessages(context, messages));
  std::vector<ChatMessage> conversation;
  Prompt prompt;
  prompt.turns = 0;
  for (const auto& message : messages) {
    conversation.push_back({message.role(), message.content()});
    if (message.role() == "user") {
      prompt.text = message.content();
      ++prompt.turns;
    }
  }
  prompt.turns = std::max<int64_t>(prompt.turns, 1);
  auto ids = EncodeChat(*context.tokenizer, *context.chat_template, conversation);
  if (!ids.ok()) return AboutField(ids.status(), "messages");
  LIFT_RETURN_IF_ERROR(CheckTokenCount(context, "messages", ids->size()));
  prompt.ids = *std::move(ids);
  return prompt;
}

absl::StatusOr<router::PrecisionRequest> ToPrecision(const api::PrecisionOptions& options) {
  router::PrecisionRequest precision;
  switch (options.mode()) {
    case api::PRECISION_MODE_UNSPECIFIED:
    case api::PRECISION_MODE_AUTO:
      if (!options.variant().empty()) {
        return BadField("precision.variant", "is only for mode PRECISION_MODE_PINNED");
      }
      break;
    case api::PRECISION_MODE_PINNED:
      if (options.variant().empty()) {
        return BadField("precision.variant", "is needed for mode PRECISION_MODE_PINNED");
      }
      precision.mode = router::Mode::kPinned;
      precision.variant = options.variant();
      break;
    default:
      return BadField("precision.mode", "has the unknown value ", static_cast<int>(options.mode()));
  }
  if (!(options.min_lambda() >= 0 && options.min_lambda() <= 1)) {
    return BadField("precision.min_lambda", "is ", options.min_lambda(),
                    "; it must be from 0 to 1");
  }
  if (!(options.max_quality_loss() >= 0 && options.max_quality_loss() <= 1e6)) {
    return BadField("precision.max_quality_loss", "is ", options.max_quality_loss(),
                    "; it must be a KL divergence in nats, 0 for none");
  }
  precision.min_lambda = options.min_lambda();
  precision.max_quality_loss = options.max_quality_loss();
  precision.allow_fallback = options.allow_fallback();
  return precision;
}

absl::StatusOr<EngineRequest> ToEngineRequest(const ServiceContext& context,
                                              const RequestParts& parts, Prompt prompt,
                                              const Caller& caller) {
  if (parts.request_id.size() > 128 || !AllOf(parts.request_id, "_.:-")) {
    return BadField("request_id", "must be at most 128 of [A-Za-z0-9_.:-]");
  }
  if (parts.priority < -context.shared.limits.priority ||
      parts.priority > context.shared.limits.priority) {
    return BadField("priority", "is ", parts.priority, "; it must be from -",
                    context.shared.limits.priority, " to ", context.shared.limits.priority);
  }
  EngineRequest request;
  request.request_id = parts.request_id.empty()
                           ? absl::StrFormat("%016x%016x", RandomBits(), RandomBits())
                           : parts.request_id;
  LIFT_ASSIGN_OR_RETURN(request.sampling, ToSampling(context, parts.sampling, parts.output));
  LIFT_ASSIGN_OR_RETURN(request.stopping, ToStopping(context, parts.stopping,
                                                     static_cast<int64_t>(prompt.ids.size())));
  LIFT_ASSIGN_OR_RETURN(request.precision, ToPrecision(parts.precision));
  if (parts.sampling.n() < 0 || parts.sampling.n() > context.shared.limits.choices) {
    return BadField("sampling.n", "is ", parts.sampling.n(), "; it must be from 0 to ",
                    context.shared.limits.choices);
  }
  request.choices = std::max(1, parts.sampling.n());
  LIFT_ASSIGN_OR_RETURN(request.constraint, ToConstraint(parts.constraint));
  if (parts.output.prompt_logprobs()) request.prompt_logprobs = parts.output.top_logprobs();
  if (parts.cache.salt().size() > kMaxCacheSaltBytes) {
    return BadField("cache.salt", "has ", parts.cache.salt().size(), " bytes; at most ",
                    kMaxCacheSaltBytes, " are accepted");
  }
  request.cache = {.bypass = parts.cache.bypass(), .salt = parts.cache.salt()};
  request.tenant = caller.tenant;
  request.deadline = caller.deadline;
  request.traceparent = caller.traceparent;
  request.priority = parts.priority;
  request.prompt = std::move(prompt.ids);
  request.prompt_text = std::move(prompt.text);
  request.turns = prompt.turns;
  return request;
}

}  // namespace lift::rpc
