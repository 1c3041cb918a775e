// usage, records and bill: the period asked for, and what is printed.
#pragma once

#include <cstdint>
#include <string>

#include "liftserve/v1/usage.pb.h"
#include "server/client/options.h"

namespace lift::client {

namespace api = liftserve::v1;

// Unix seconds, UTC.
struct Period {
  int64_t begin = 0;
  int64_t end = 0;  // 0 = until now
};
// From --month, or --begin and --end; a bill without either is of the current month.
// INVALID_ARGUMENT.
absl::StatusOr<Period> ReadPeriod(const ClientOptions& options);

api::GetUsageRequest UsageRequest(const ClientOptions& options, const Period& period);
api::ListUsageRecordsRequest RecordsRequest(const ClientOptions& options, const Period& period);

// One row per entry.
std::string UsageCsv(const api::GetUsageResponse& usage);

// Pages of records as one text: CSV with a row per line of a record, or a JSON array.
class RecordWriter {
 public:
  explicit RecordWriter(const std::string& format);
  void Add(const api::ListUsageRecordsResponse& page);
  std::string Take();

 private:
  const bool csv_;
  bool first_ = true;
  std::string text_;
};

// The invoice of `usage` at --price and --tiers, in --format. INVALID_ARGUMENT for a price or tiers
// that make no sense.
absl::StatusOr<std::string> BillText(const ClientOptions& options, const Period& period,
                                     const api::GetUsageResponse& usage);

// "2026-11-01T00:00:00Z".
std::string TimeText(int64_t unix_seconds);
// RFC 4180: quoted where it has to be.
std::string CsvField(const std::string& text);
// "12.000345": byte-seconds with six decimals.
std::string ByteTimeText(const api::ByteTime& time);

}  // namespace lift::client
