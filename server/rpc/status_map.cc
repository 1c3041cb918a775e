#include "server/rpc/status_map.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "server/engine/engine.h"
#include "server/errors.h"

namespace lift::rpc {
namespace {

constexpr int kQueueFullRetryMs = 500;  // about the time a slot takes to come free
constexpr int kDrainingRetryMs = 1000;  // a load balancer has another replica by then

}  // namespace

int RetryPushbackMs(const absl::Status& status) {
  if (const auto given = status.GetPayload(kRetryPayload)) {
    int milliseconds = 0;
    if (absl::SimpleAtoi(std::string(*given), &milliseconds)) return milliseconds;
  }
  if (status.code() != absl::StatusCode::kUnavailable) return -1;
  return ErrorReason(status) == "DRAINING" ? kDrainingRetryMs : kQueueFullRetryMs;
}

grpc::Status ToGrpcStatus(const absl::Status& status,
                          const std::map<std::string, std::string>& metadata) {
  if (status.ok()) return grpc::Status::OK;
  const std::string message(status.message());
  google::rpc::Status rich;
  rich.set_code(static_cast<int>(status.code()));
  rich.set_message(message);

  google::rpc::ErrorInfo info;
  info.set_reason(ErrorReason(status));
  info.set_domain(kErrorDomain);
  for (const auto& [key, value] : metadata) (*info.mutable_metadata())[key] = value;
  rich.add_details()->PackFrom(info);

  if (const std::string field = ErrorField(status); !field.empty()) {
    google::rpc::BadRequest bad;
    auto* violation = bad.add_field_violations();
    violation->set_field(field);
    violation->set_description(message);
    rich.add_details()->PackFrom(bad);
  }
  if (const auto subject = status.GetPayload(kQuotaSubjectPayload)) {
    google::rpc::QuotaFailure quota;
    auto* violation = quota.add_violations();
    violation->set_subject(std::string(*subject));
    violation->set_description(message);
    rich.add_details()->PackFrom(quota);
  }
  if (const auto blockers = status.GetPayload(kBlockersPayload)) {
    google::rpc::PreconditionFailure failure;
    for (const absl::string_view id : absl::StrSplit(std::string(*blockers), '\n')) {
      auto* violation = failure.add_violations();
      violation->set_type(info.reason());
      violation->set_subject(absl::StrCat("request:", id));
      violation->set_description("end or cancel it, or keep its precision resident");
    }
    rich.add_details()->PackFrom(failure);
  }
  if (const int retry_ms = RetryPushbackMs(status); retry_ms >= 0) {
    google::rpc::RetryInfo retry;
    retry.mutable_retry_delay()->set_seconds(retry_ms / 1000);
    retry.mutable_retry_delay()->set_nanos(retry_ms % 1000 * 1000000);
    rich.add_details()->PackFrom(retry);
  }
  // The numeric values of absl's and gRPC's codes are the same canonical ones.
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), message,
                      rich.SerializeAsString());
}

grpc::Status FinishStatus(grpc::CallbackServerContext* context, const absl::Status& status,
                          const std::map<std::string, std::string>& metadata) {
  if (const int retry_ms = RetryPushbackMs(status); retry_ms >= 0) {
    context->AddTrailingMetadata("grpc-retry-pushback-ms", std::to_string(retry_ms));
  }
  return ToGrpcStatus(status, metadata);
}

}  // namespace lift::rpc
