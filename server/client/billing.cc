#include "server/client/billing.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/time/civil_time.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "server/client/report.h"

namespace lift::client {
namespace {

int64_t UnixSeconds(absl::CivilSecond time) {
  return absl::ToUnixSeconds(absl::FromCivil(time, absl::UTCTimeZone()));
}

Period Whole(absl::CivilMonth month) {
  return {UnixSeconds(absl::CivilSecond(month)), UnixSeconds(absl::CivilSecond(month + 1))};
}

absl::StatusOr<int64_t> ReadTime(const char* flag, const std::string& text) {
  absl::CivilDay day;
  absl::CivilHour hour;
  if (text.size() == 10 && absl::ParseCivilTime(text, &day)) {
    return UnixSeconds(absl::CivilSecond(day));
  }
  if (text.size() == 13 && absl::ParseCivilTime(text, &hour)) {
    return UnixSeconds(absl::CivilSecond(hour));
  }
  return absl::InvalidArgumentError(
      absl::StrCat(flag, " is '", text, "'; it must be YYYY-MM-DD or YYYY-MM-DDTHH"));
}

template <class Request>
void Fill(const ClientOptions& o, const Period& period, Request& request) {
  request.set_tenant(o.usage_tenant);
  request.set_variant(o.usage_variant);
  if (period.begin > 0) request.mutable_begin()->set_seconds(period.begin);
  if (period.end > 0) request.mutable_end()->set_seconds(period.end);
}

std::string Row(const std::vector<std::string>& fields) {
  return absl::StrJoin(fields, ",",
                       [](std::string* out, const std::string& field) {
                         absl::StrAppend(out, CsvField(field));
                       }) +
         "\n";
}

std::string PeriodText(const google::protobuf::Timestamp& time) { return TimeText(time.seconds()); }

std::string Precise(const google::protobuf::Timestamp& time) {
  return absl::FormatTime("%Y-%m-%dT%H:%M:%E6SZ",
                          absl::FromUnixSeconds(time.seconds()) + absl::Nanoseconds(time.nanos()),
                          absl::UTCTimeZone());
}

std::string StateText(api::UsageRecordState state) {
  return api::UsageRecordState_Name(state).substr(sizeof("USAGE_RECORD_STATE_") - 1);
}

}  // namespace

std::string TimeText(int64_t unix_seconds) {
  return absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", absl::FromUnixSeconds(unix_seconds),
                          absl::UTCTimeZone());
}

std::string CsvField(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string quoted = "\"";
  for (const char c : text) quoted += c == '"' ? "\"\"" : std::string(1, c);
  return quoted + '"';
}

std::string ByteTimeText(const api::ByteTime& time) {
  return absl::StrFormat("%d.%06d", time.byte_seconds(), time.micros());
}

absl::StatusOr<Period> ReadPeriod(const ClientOptions& o) {
  Period period;
  if (!o.month.empty()) {
    absl::CivilMonth month;
    if (!o.begin.empty() || !o.end.empty()) {
      return absl::InvalidArgumentError(
          "--month excludes --begin and --end; give one or the other");
    }
    if (o.month.size() != 7 || !absl::ParseCivilTime(o.month, &month) || month.year() < 1970) {
      return absl::InvalidArgumentError(
          absl::StrCat("--month is '", o.month, "'; it must be YYYY-MM"));
    }
    return Whole(month);
  }
  if (o.command == "bill" && o.begin.empty() && o.end.empty()) {
    return Whole(absl::CivilMonth(absl::ToCivilSecond(absl::Now(), absl::UTCTimeZone())));
  }
  if (!o.begin.empty()) {
    LIFT_ASSIGN_OR_RETURN(period.begin, ReadTime("--begin", o.begin));
  }
  if (o.command == "bill" && o.end.empty()) {
    period.end = UnixSeconds(absl::CivilSecond(
        absl::CivilHour(absl::ToCivilSecond(absl::Now(), absl::UTCTimeZone())) + 1));
  }
  if (!o.end.empty()) {
    LIFT_ASSIGN_OR_RETURN(period.end, ReadTime("--end", o.end));
    if (period.end <= period.begin) {
      return absl::InvalidArgumentError("--end must be after --begin");
    }
  }
  return period;
}

api::GetUsageRequest UsageRequest(const ClientOptions& o, const Period& period) {
  api::GetUsageRequest request;
  Fill(o, period, request);
  if (o.by == "hour") request.set_granularity(api::USAGE_GRANULARITY_HOUR);
  if (o.by == "day") request.set_granularity(api::USAGE_GRANULARITY_DAY);
  return request;
}

api::ListUsageRecordsRequest RecordsRequest(const ClientOptions& o, const Period& period) {
  api::ListUsageRecordsRequest request;
  Fill(o, period, request);
  return request;
}

std::string UsageCsv(const api::GetUsageResponse& usage) {
  std::string text =
      "period_start,tenant,variant,lambda,weight_byte_seconds,kv_byte_seconds,requests,"
      "prompt_tokens,generated_tokens\n";
  for (const api::UsageEntry& e : usage.entries()) {
    text += Row({e.has_period_start() ? PeriodText(e.period_start()) : "", e.tenant(), e.variant(),
                 absl::StrCat(e.lambda()), ByteTimeText(e.weight()), ByteTimeText(e.kv()),
                 absl::StrCat(e.requests()), absl::StrCat(e.prompt_tokens()),
                 absl::StrCat(e.generated_tokens())});
  }
  return text;
}

RecordWriter::RecordWriter(const std::string& format) : csv_(format == "csv") {
  text_ = csv_ ? "epoch,sequence,state,request_id,tenant,code,finish_reason,started,finished,"
                 "prompt_tokens,cached_tokens,generated_tokens,hour,variant,lambda,"
                 "weight_byte_seconds,kv_byte_seconds\n"
               : "[";
}

void RecordWriter::Add(const api::ListUsageRecordsResponse& page) {
  for (const api::UsageRecord& r : page.records()) {
    if (!csv_) {
      absl::StrAppend(&text_, first_ ? "\n" : ",\n", MessageJson(r, false));
      first_ = false;
      continue;
    }
    const std::vector<std::string> head{absl::StrCat(r.epoch()),
                                        absl::StrCat(r.sequence()),
                                        StateText(r.state()),
                                        r.request_id(),
                                        r.tenant(),
                                        r.code(),
                                        r.finish_reason(),
                                        Precise(r.started()),
                                        r.has_finished() ? Precise(r.finished()) : "",
                                        absl::StrCat(r.prompt_tokens()),
                                        absl::StrCat(r.cached_tokens()),
                                        absl::StrCat(r.generated_tokens())};
    for (const api::UsageLine& line : r.lines()) {
      std::vector<std::string> row = head;
      for (std::string field :
           {PeriodText(line.hour()), line.variant(), absl::StrCat(line.lambda()),
            ByteTimeText(line.weight()), ByteTimeText(line.kv())}) {
        row.push_back(std::move(field));
      }
      text_ += Row(row);
    }
    if (r.lines().empty()) {
      std::vector<std::string> row = head;
      for (const char* field : {"", "", "", "0.000000", "0.000000"}) row.emplace_back(field);
      text_ += Row(row);
    }
  }
}

std::string RecordWriter::Take() {
  if (!csv_) text_ += "\n]\n";
  return std::move(text_);
}

}  // namespace lift::client
