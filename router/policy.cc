// Policies as operators write them.
#include <cmath>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "router/predictor.h"
#include "router/router.h"

namespace lift::router {

absl::StatusOr<Policy> ParsePolicy(std::string_view text) {
  const size_t colon = text.find(':');
  const std::string_view kind = text.substr(0, colon);
  const std::string_view value = colon == text.npos ? "" : text.substr(colon + 1);
  const auto positive = [&](double& out) {
    return absl::SimpleAtod(std::string(value), &out) && out > 0 && std::isfinite(out);
  };
  Policy policy;
  if (kind == "balanced" && colon == text.npos) return policy;
  if (kind == "budget") {
    policy.kind = Policy::Kind::kBudget;
    if (positive(policy.budget_bits)) return policy;
  } else if (kind == "quality") {
    policy.kind = Policy::Kind::kQuality;
    if (positive(policy.max_loss)) return policy;
  } else if (kind == "fixed" && !value.empty()) {
    policy.kind = Policy::Kind::kFixed;
    policy.variant = value;
    return policy;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("'", std::string(text),
                   "' is no routing policy; give balanced, budget:BITS, quality:NATS or "
                   "fixed:VARIANT, numbers above 0"));
}

std::string PolicyName(const Policy& policy) {
  switch (policy.kind) {
    case Policy::Kind::kBalanced:
      return "balanced";
    case Policy::Kind::kBudget:
      return absl::StrFormat("budget:%g", policy.budget_bits);
    case Policy::Kind::kQuality:
      return absl::StrFormat("quality:%g", policy.max_loss);
    case Policy::Kind::kFixed:
      return absl::StrCat("fixed:", policy.variant);
  }
  return "unknown";
}

std::string RouterConfig::Version() const {
  return absl::StrCat(predictor ? predictor->parts().version : std::string(kRouterVersion), "/",
                      PolicyName(policy),
                      most_drafts > 0 ? absl::StrCat("/guess:", most_drafts) : std::string());
}

}  // namespace lift::router
