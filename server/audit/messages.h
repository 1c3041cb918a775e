// Rows of the log as messages of the API, both ways: the client checks what the server sent.
#pragma once

#include "liftserve/v1/usage.pb.h"
#include "server/audit/decision.h"

namespace lift {

liftserve::v1::RoutingDecision ToMessage(const RoutingDecision& decision);
RoutingDecision FromMessage(const liftserve::v1::RoutingDecision& message);
liftserve::v1::DecisionLogHead ToMessage(const DecisionHead& head);
DecisionHead FromMessage(const liftserve::v1::DecisionLogHead& message);

}  // namespace lift
