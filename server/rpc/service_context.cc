#include "server/rpc/service_context.h"

#include <algorithm>
#include <cctype>

#include "absl/strings/str_cat.h"
#include "server/errors.h"

namespace lift::rpc {
namespace {

constexpr const char* kTenantKey = "x-liftserve-tenant";

bool IsTenantName(std::string_view name) {
  if (name.empty() || name.size() > 64 || name.starts_with("__")) return false;
  return std::all_of(name.begin(), name.end(), [](unsigned char c) {
    return c < 128 && (std::isalnum(c) || c == '_' || c == '.' || c == '-');
  });
}

}  // namespace

uint64_t LiveCalls::Add(const std::string& request_id) {
  std::lock_guard lock(mutex_);
  ids_.emplace(next_ticket_, request_id);
  return next_ticket_++;
}

void LiveCalls::Remove(uint64_t ticket) {
  std::lock_guard lock(mutex_);
  ids_.erase(ticket);
}

std::vector<std::string> LiveCalls::BeginAbort() {
  std::lock_guard lock(mutex_);
  aborting_ = true;
  std::vector<std::string> ids;
  for (const auto& [ticket, id] : ids_) ids.push_back(id);
  return ids;
}

absl::StatusOr<Caller> CallerOf(const grpc::CallbackServerContext& context) {
  Caller caller;
  const auto& metadata = context.client_metadata();
  if (const auto it = metadata.find(kTenantKey); it != metadata.end()) {
    caller.tenant.assign(it->second.data(), it->second.size());
    if (!IsTenantName(caller.tenant)) {
      return WithReason(absl::InvalidArgumentError(
                            "metadata x-liftserve-tenant must be 1 to 64 of [A-Za-z0-9_.-] "
                            "and must not start with \"__\""),
                        "INVALID_TENANT");
    }
  }
  const auto deadline = context.deadline();
  if (deadline != std::chrono::system_clock::time_point::max()) {
    // The wire carries a duration; the engine counts on the steady clock.
    caller.deadline = EngineClock::now() + std::chrono::duration_cast<EngineClock::duration>(
                                               deadline - std::chrono::system_clock::now());
  }
  return caller;
}

absl::Status CheckModel(const ServiceContext& context, const std::string& name) {
  if (name.empty() || name == context.model.name) return absl::OkStatus();
  return WithReason(absl::NotFoundError(absl::StrCat("no model '", name, "'; this server has '",
                                                     context.model.name, "'")),
                    "MODEL_NOT_FOUND", "model");
}

}  // namespace lift::rpc
