// How a layer names the reason of an error in a form that programs can branch on, without knowing
// gRPC.
#pragma once

#include <cctype>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/cord.h"
#include "absl/strings/string_view.h"

namespace lift {

// Payloads of absl::Status: the ErrorInfo reason (UPPER_SNAKE_CASE) and the path of the request
// field that is wrong.
inline constexpr const char* kReasonPayload = "liftserve.dev/reason";
inline constexpr const char* kFieldPayload = "liftserve.dev/field";
// Milliseconds after which a retry may succeed (decimal); what a quota counts ("tenant:acme").
inline constexpr const char* kRetryPayload = "liftserve.dev/retry-ms";
inline constexpr const char* kQuotaSubjectPayload = "liftserve.dev/quota-subject";

inline absl::Status WithReason(absl::Status status, absl::string_view reason,
                               absl::string_view field = "") {
  status.SetPayload(kReasonPayload, absl::Cord(reason));
  if (!field.empty()) status.SetPayload(kFieldPayload, absl::Cord(field));
  return status;
}

inline absl::Status WithRetryAfter(absl::Status status, int64_t milliseconds) {
  status.SetPayload(kRetryPayload, absl::Cord(std::to_string(milliseconds)));
  return status;
}

// The payload if there is one; else the UPPER_SNAKE_CASE word in front of the message's first colon
// ("QUEUE_FULL: ..."), which layers without payloads use; else the code's name.
inline std::string ErrorReason(const absl::Status& status) {
  if (auto payload = status.GetPayload(kReasonPayload)) return std::string(*payload);
  const absl::string_view message = status.message();
  const size_t colon = message.find(':');
  const absl::string_view word = message.substr(0, colon == absl::string_view::npos ? 0 : colon);
  bool constant = word.size() >= 3;
  for (char c : word) {
    constant = constant && (std::isupper(static_cast<unsigned char>(c)) ||
                            std::isdigit(static_cast<unsigned char>(c)) || c == '_');
  }
  return constant ? std::string(word) : absl::StatusCodeToString(status.code());
}

inline std::string ErrorField(const absl::Status& status) {
  auto payload = status.GetPayload(kFieldPayload);
  return payload ? std::string(*payload) : std::string();
}

}  // namespace lift
