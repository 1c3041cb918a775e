#include "server/rpc/service_context.h"

#include <grpc/grpc_security_constants.h>
#include <grpcpp/security/auth_context.h>

#include <algorithm>
#include <string_view>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/errors.h"

namespace lift::rpc {
namespace {

constexpr const char* kTenantKey = "x-liftserve-tenant";

std::optional<std::string_view> MetadataValue(const grpc::CallbackServerContext& context,
                                              const char* key) {
  const auto it = context.client_metadata().find(key);
  if (it == context.client_metadata().end()) return std::nullopt;
  return std::string_view(it->second.data(), it->second.size());
}

std::optional<std::string_view> ApiKey(const grpc::CallbackServerContext& context) {
  constexpr absl::string_view kBearer = "bearer ";
  if (const auto value = MetadataValue(context, "authorization")) {
    if (absl::StartsWithIgnoreCase({value->data(), value->size()}, kBearer)) {
      return value->substr(kBearer.size());
    }
    return std::string_view();  // another scheme: a credential we do not know
  }
  return MetadataValue(context, "x-api-key");
}

// Subject alternative names, then the common name, of a certificate that was verified.
std::vector<std::string> CertificateNames(const grpc::CallbackServerContext& context) {
  std::vector<std::string> names;
  const auto auth = context.auth_context();
  if (auth == nullptr || !auth->IsPeerAuthenticated()) return names;
  for (const char* property : {GRPC_X509_SAN_PROPERTY_NAME, GRPC_X509_CN_PROPERTY_NAME}) {
    for (const auto& value : auth->FindPropertyValues(property)) {
      names.emplace_back(value.data(), value.size());
    }
  }
  return names;
}

absl::StatusOr<Identity> Authenticate(const KeyRing& ring,
                                      const grpc::CallbackServerContext& context) {
  if (const auto key = ApiKey(context)) return ring.Authenticate(*key);
  const std::vector<std::string> names = CertificateNames(context);
  if (!names.empty()) return ring.FromCertificate(names);
  return WithReason(absl::UnauthenticatedError("this server wants an API key; send it as metadata "
                                               "\"authorization: Bearer KEY\""),
                    "MISSING_CREDENTIALS");
}

// "00-TRACE-SPAN-FLAGS" in lower-case hex, neither id all zeros. Anything else is as good as
// absent.
bool IsTraceparent(std::string_view text) {
  if (text.size() != 55 || !text.starts_with("00-") || text[35] != '-' || text[52] != '-') {
    return false;
  }
  const std::string_view trace = text.substr(3, 32), span = text.substr(36, 16);
  for (const std::string_view part : {trace, span, text.substr(53)}) {
    if (part.find_first_not_of("0123456789abcdef") != std::string_view::npos) return false;
  }
  return trace.find_first_not_of('0') != std::string_view::npos &&
         span.find_first_not_of('0') != std::string_view::npos;
}

absl::Status ApplyTenantHeader(const SharedServices& shared, std::string_view named,
                               Caller& caller) {
  if (!IsTenantName(named)) {
    return WithReason(
        absl::InvalidArgumentError("metadata x-liftserve-tenant must be 1 to 64 of [A-Za-z0-9_.-] "
                                   "and must not start with \"__\""),
        "INVALID_TENANT");
  }
  if (shared.access != nullptr && named != caller.tenant) {
    return WithReason(absl::PermissionDeniedError(
                          "metadata x-liftserve-tenant names another tenant than the credentials; "
                          "leave it out"),
                      "TENANT_MISMATCH");
  }
  caller.tenant = named;
  return absl::OkStatus();
}

}  // namespace

uint64_t LiveCalls::Add(Engine& engine, const std::string& request_id, const std::string& tenant) {
  std::lock_guard lock(mutex_);
  calls_.emplace(next_ticket_, Call{&engine, request_id, tenant});
  return next_ticket_++;
}

// Engines never call back from Cancel, so the lock may be held: it keeps the engine alive.
bool LiveCalls::Cancel(const std::string& request_id, const std::string* tenant) const {
  std::lock_guard lock(mutex_);
  bool cancelled = false;
  for (const auto& [ticket, call] : calls_) {
    if (call.request_id != request_id || (tenant != nullptr && call.tenant != *tenant)) continue;
    cancelled = call.engine->Cancel(request_id) || cancelled;
  }
  return cancelled;
}

void LiveCalls::Remove(uint64_t ticket) {
  std::lock_guard lock(mutex_);
  calls_.erase(ticket);
}

void LiveCalls::Abort() {
  std::lock_guard lock(mutex_);
  aborting_ = true;
  for (const auto& [ticket, call] : calls_) call.engine->Cancel(call.request_id);
}

absl::StatusOr<Caller> CallerOf(const SharedServices& shared,
                                const grpc::CallbackServerContext& context) {
  Caller caller;
  if (shared.access != nullptr) {
    LIFT_ASSIGN_OR_RETURN(Identity identity, Authenticate(*shared.access->ring(), context));
    caller.tenant = std::move(identity.tenant);
    caller.role = identity.role;
  }
  if (const auto named = MetadataValue(context, kTenantKey)) {
    LIFT_RETURN_IF_ERROR(ApplyTenantHeader(shared, *named, caller));
  }
  if (const auto trace = MetadataValue(context, "traceparent"); trace && IsTraceparent(*trace)) {
    caller.traceparent = *trace;
  }
  const auto deadline = context.deadline();
  if (deadline != std::chrono::system_clock::time_point::max()) {
    // The wire carries a duration; the engine counts on the steady clock.
    caller.deadline = EngineClock::now() + std::chrono::duration_cast<EngineClock::duration>(
                                               deadline - std::chrono::system_clock::now());
  }
  return caller;
}

absl::Status RequireAdmin(const Caller& caller) {
  if (caller.role == Role::kAdmin) return absl::OkStatus();
  return WithReason(
      absl::PermissionDeniedError("this call needs a key or certificate whose role is "
                                  "admin"),
      "ADMIN_ONLY");
}

absl::StatusOr<Admitted> AdmitToQuota(SharedServices& shared, EngineRequest request) {
  Admitted admitted;
  if (shared.access != nullptr) {
    const auto ring = shared.access->ring();
    const int64_t tokens = static_cast<int64_t>(request.prompt.size()) +
                           request.choices * request.stopping.max_new_tokens;
    LIFT_ASSIGN_OR_RETURN(admitted.lease,
                          shared.quotas.Admit(request.tenant, ring->QuotaOf(request.tenant), tokens,
                                              QuotaClock::now()));
  }
  admitted.request = std::move(request);
  return admitted;
}

void SettleLease(TenantQuotas::Lease& lease, const RequestUsage& usage) {
  lease.Settle(usage.prompt_tokens + usage.generated_tokens,
               ByteSeconds(usage.weight_byte_us) + ByteSeconds(usage.kv_byte_us),
               QuotaClock::now());
}

absl::Status CheckModel(const ServiceContext& context, const std::string& name) {
  if (name.empty() || name == context.model.name) return absl::OkStatus();
  return WithReason(absl::NotFoundError(absl::StrCat("no model '", name, "'; this server has '",
                                                     context.model.name, "'")),
                    "MODEL_NOT_FOUND", "model");
}

}  // namespace lift::rpc
