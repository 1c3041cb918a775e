// The ledger's tables and how older files become current ones.
#pragma once

#include <sqlite3.h>

#include "kernels/base/status.h"

namespace lift {

// 128-bit byte-microseconds are stored as whole byte-seconds and millionths of one.
inline constexpr int kLedgerVersion = 4;

// Brings a new or older file to kLedgerVersion in one transaction. FAILED_PRECONDITION for a newer
// one.
absl::Status MigrateLedger(sqlite3* db);

}  // namespace lift
