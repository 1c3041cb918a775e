// Status plumbing: the two macros every layer uses to hand errors up.
#pragma once

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define LIFT_RETURN_IF_ERROR(expr)                                                   \
  do {                                                                               \
    if (absl::Status lift_status_ = (expr); !lift_status_.ok()) return lift_status_; \
  } while (0)

#define LIFT_CONCAT_INNER_(a, b) a##b
#define LIFT_CONCAT_(a, b) LIFT_CONCAT_INNER_(a, b)
// LIFT_ASSIGN_OR_RETURN(auto x, StatusOrExpression());
#define LIFT_ASSIGN_OR_RETURN(lhs, expr) \
  LIFT_ASSIGN_OR_RETURN_IMPL_(LIFT_CONCAT_(lift_statusor_, __LINE__), lhs, expr)
#define LIFT_ASSIGN_OR_RETURN_IMPL_(tmp, lhs, expr) \
  auto tmp = (expr);                                \
  if (!tmp.ok()) return tmp.status();               \
  lhs = std::move(tmp).value()
