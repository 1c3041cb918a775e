// How the ledger is doing, for /metrics.
#pragma once

#include "server/accounting/server_ledger.h"
#include "server/metrics/samples.h"

namespace lift {

// liftserve_ledger_*. `ledger` must outlive the source.
FamilySource LedgerMetrics(const ServerLedger& ledger);

}  // namespace lift
