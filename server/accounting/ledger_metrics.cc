#include "server/accounting/ledger_metrics.h"

namespace lift {

FamilySource LedgerMetrics(const ServerLedger& ledger) {
  return [&ledger](std::vector<prometheus::MetricFamily>& out) {
    const LedgerWriter::Stats stats = ledger.stats();
    out.push_back(Single(
        MakeGauge("liftserve_ledger_drift_bytes_seconds",
                  "Memory x time these metrics counted since the start minus what the ledger holds "
                  "of it; 0 unless one of the two lost or gained something"),
        stats.drift_byte_seconds));
    out.push_back(Single(MakeGauge("liftserve_ledger_healthy",
                                   "0 while the ledger cannot be written; answers go on"),
                         ledger.healthy() ? 1 : 0));
    out.push_back(Single(MakeGauge("liftserve_ledger_unwritten_requests",
                                   "Requests that ended and are not in the file yet"),
                         static_cast<double>(stats.unwritten)));
    out.push_back(Single(
        MakeGauge("liftserve_ledger_last_commit_timestamp_seconds", "Of the last transaction"),
        static_cast<double>(stats.last_commit_us) * 1e-6));
    out.push_back(
        Single(MakeCounter("liftserve_ledger_commits_total", "Transactions that were written"),
               static_cast<double>(stats.commits)));
    out.push_back(
        Single(MakeCounter("liftserve_ledger_commit_failures_total", "Transactions that were not"),
               static_cast<double>(stats.failures)));
    out.push_back(Single(MakeCounter("liftserve_ledger_commit_seconds_total",
                                     "Time transactions took, the disk included"),
                         stats.commit_seconds));
  };
}

}  // namespace lift
