#include "server/rpc/admit.h"

#include "server/errors.h"
#include "server/rpc/translate.h"

namespace lift::rpc {
namespace {

absl::StatusOr<Admitted> Check(const ServiceContext& services, const Caller& caller,
                               const api::GenerateRequest& request) {
  LIFT_RETURN_IF_ERROR(CheckModel(services, request.model()));
  absl::StatusOr<Prompt> prompt =
      WithReason(absl::InvalidArgumentError("prompt is missing; set text or token_ids"),
                 "INVALID_FIELD", "prompt");
  if (request.has_token_ids()) prompt = TokenPrompt(services, request.token_ids());
  if (request.prompt_case() == api::GenerateRequest::kText) {
    prompt = TextPrompt(services, request.text(), request.parse_special_tokens());
  }
  if (!prompt.ok()) return prompt.status();
  LIFT_ASSIGN_OR_RETURN(EngineRequest translated,
                        ToEngineRequest(services, PartsOf(request), *std::move(prompt), caller));
  return AdmitToQuota(services.shared, std::move(translated));
}

}  // namespace

absl::StatusOr<Admitted> Admit(const ServiceContext& services, const Caller& caller,
                               const api::GenerateRequest& request) {
  auto admitted = Check(services, caller, request);
  if (!admitted.ok()) return NoteRefusal(services, caller.tenant, admitted.status());
  return admitted;
}

absl::Status NoteRefusal(const ServiceContext& services, const std::string& tenant,
                         absl::Status status) {
  if (services.observer != nullptr) {
    EngineRequest refused;
    refused.tenant = tenant;
    services.observer->OnRejected(refused, status);
  }
  return status;
}

}  // namespace lift::rpc
