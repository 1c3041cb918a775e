// UsageService over a ledger: what is told is committed, and outlives the server.
#include <gmock/gmock.h>
#include <sqlite3.h>
#include <unistd.h>

#include <filesystem>

#include "server/accounting/ledger_metrics.h"
#include "server/metrics/scrape.h"
#include "tests/rpc/fixture.h"

namespace lift::test {
namespace {

ByteMicros Micros(const api::ByteTime& time) {
  return ByteMicros{time.byte_seconds()} * 1000000 + time.micros();
}

class UsageTest : public RpcTest {
 protected:
  UsageTest()
      : folder_(std::filesystem::temp_directory_path() /
                ("usage_test_" + std::to_string(getpid()))) {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    ledger_path_ = folder_ / "ledger.db";
  }
  ~UsageTest() override { std::filesystem::remove_all(folder_); }
  void SetUp() override { Start(); }
  void Start() {
    StartServer({.max_batch = 16, .max_waiting = 64});
    usage_stub_ = api::UsageService::NewStub(channel_);
  }
  void Generate(const std::string& tenant, const std::string& variant, int tokens) {
    grpc::ClientContext context;
    context.AddMetadata("x-liftserve-tenant", tenant);
    api::GenerateResponse response;
    const grpc::Status status =
        stub_->Generate(&context, Request("hello", tokens, variant), &response);
    ASSERT_TRUE(status.ok()) << status.error_message();
  }
  grpc::Status Usage(const api::GetUsageRequest& request, api::GetUsageResponse* response) {
    grpc::ClientContext context;
    return usage_stub_->GetUsage(&context, request, response);
  }
  grpc::Status Records(const api::ListUsageRecordsRequest& request,
                       api::ListUsageRecordsResponse* response) {
    grpc::ClientContext context;
    return usage_stub_->ListUsageRecords(&context, request, response);
  }
  // One number out of the file, read by SQLite itself; or changes it.
  int64_t Sql(const std::string& sql) {
    sqlite3* db = nullptr;
    EXPECT_EQ(sqlite3_open(ledger_path_.c_str(), &db), SQLITE_OK);
    sqlite3_busy_timeout(db, 2000);
    int64_t value = -1;
    const auto take = [](void* out, int, char** columns, char**) {
      *static_cast<int64_t*>(out) = std::stoll(columns[0]);
      return 0;
    };
    EXPECT_EQ(sqlite3_exec(db, sql.c_str(), take, &value, nullptr), SQLITE_OK)
        << sqlite3_errmsg(db);
    sqlite3_close(db);
    return value;
  }

  std::filesystem::path folder_;
  std::unique_ptr<api::UsageService::Stub> usage_stub_;
};

// The fixture's checkpoints are a minute apart: only the acknowledgement can have written the row.
TEST_F(UsageTest, AnEndIsToldOnceItIsCommitted) {
  for (int i = 1; i <= 20; ++i) {
    Generate("acme", "middle", 3);
    ASSERT_EQ(Sql("SELECT COUNT(*) FROM requests WHERE state = 1 AND tenant = 'acme'"), i);
  }
  EXPECT_EQ(Sql("SELECT SUM(generated_tokens) FROM requests WHERE tenant = 'acme'"), 60);
  EXPECT_EQ(Sql("SELECT COUNT(*) FROM requests WHERE state = 1 AND code = 'OK' AND "
                "finish_reason = 'LENGTH' AND variant = 'middle' AND request_id <> ''"),
            20);
}

TEST_F(UsageTest, UsageGoesOnAcrossRestartsAndAddsUpExactly) {
  model_.step_micros = 300;
  Generate("acme", "middle", 10);
  Generate("beta", "fine", 5);
  api::GetUsageRequest of_acme;
  of_acme.set_tenant("acme");
  api::GetUsageResponse first;
  ASSERT_TRUE(Usage(of_acme, &first).ok());
  EXPECT_TRUE(first.durable());
  StopServer(std::chrono::milliseconds(0));
  Start();
  Generate("acme", "middle", 7);
  api::GetUsageResponse second, all;
  ASSERT_TRUE(Usage(of_acme, &second).ok());
  EXPECT_EQ(second.since().seconds(), first.since().seconds());
  uint64_t requests = 0, tokens = 0;
  for (const auto& entry : second.entries()) {
    EXPECT_EQ(entry.tenant(), "acme");
    EXPECT_EQ(entry.lambda(), entry.variant() == "middle" ? 0.5 : 0.75);  // prompts: the finest
    requests += entry.requests();
    tokens += entry.generated_tokens();
  }
  EXPECT_EQ(requests, 2u);
  EXPECT_EQ(tokens, 17u);
  ASSERT_TRUE(Usage({}, &all).ok());
  ByteMicros sum = 0;
  for (const auto& entry : all.entries()) sum += Micros(entry.weight()) + Micros(entry.kv());
  EXPECT_TRUE(sum == Micros(all.total()));
  StopServer(std::chrono::milliseconds(0));
  EXPECT_EQ(Sql("SELECT (SELECT SUM(weight_s) + SUM(kv_s) FROM lines) * 1000000 + (SELECT "
                "SUM(weight_us) + SUM(kv_us) FROM lines) - (SELECT SUM(byte_s) * 1000000 + "
                "SUM(byte_us) FROM residency)"),
            0);
}

TEST_F(UsageTest, PeriodsAndGranularity) {
  Generate("acme", "middle", 3);
  Sql("UPDATE lines SET hour = hour - 7200");
  Sql("UPDATE requests SET started_us = started_us - 7200 * 1000000");
  Generate("acme", "middle", 3);
  api::GetUsageRequest request;
  request.set_tenant("acme");
  request.set_variant("middle");
  request.set_granularity(api::USAGE_GRANULARITY_HOUR);
  api::GetUsageResponse hours;
  ASSERT_TRUE(Usage(request, &hours).ok());
  ASSERT_EQ(hours.entries_size(), 2);
  EXPECT_EQ(hours.entries(0).requests(), 1u);
  EXPECT_GE(hours.entries(1).period_start().seconds() - hours.entries(0).period_start().seconds(),
            7200);
  *request.mutable_begin() = hours.entries(1).period_start();
  request.set_granularity(api::USAGE_GRANULARITY_TOTAL);
  api::GetUsageResponse last;
  ASSERT_TRUE(Usage(request, &last).ok());
  ASSERT_EQ(last.entries_size(), 1);
  EXPECT_EQ(last.entries(0).requests(), 1u);
  EXPECT_FALSE(last.entries(0).has_period_start());
}

TEST_F(UsageTest, RecordsComeInPages) {
  for (int i = 0; i < 5; ++i) Generate(i % 2 == 0 ? "acme" : "beta", "coarse", 2);
  api::ListUsageRecordsRequest request;
  request.set_tenant("acme");
  request.set_page_size(2);
  std::vector<int64_t> sequences;
  for (int page = 0; page < 3; ++page) {
    api::ListUsageRecordsResponse response;
    ASSERT_TRUE(Records(request, &response).ok());
    for (const auto& record : response.records()) {
      sequences.push_back(record.sequence());
      EXPECT_EQ(record.tenant(), "acme");
      EXPECT_EQ(record.state(), api::USAGE_RECORD_STATE_FINISHED);
      EXPECT_EQ(record.generated_tokens(), 2);
      EXPECT_GE(record.finished().seconds(), record.started().seconds());
      ByteMicros used = 0;
      for (const auto& line : record.lines()) used += Micros(line.weight()) + Micros(line.kv());
      EXPECT_TRUE(used > 0);
    }
    request.set_page_token(response.next_page_token());
    if (request.page_token().empty()) break;
  }
  EXPECT_THAT(sequences, testing::ElementsAre(1, 3, 5));
}

TEST_F(UsageTest, WrongQuestionsAreRefusedByField) {
  const auto field_of = [&](const api::GetUsageRequest& request) {
    api::GetUsageResponse response;
    const grpc::Status status = Usage(request, &response);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    return DetailsOf(status).field();
  };
  api::GetUsageRequest half, reversed, granularity;
  half.mutable_begin()->set_seconds(1800);
  EXPECT_EQ(field_of(half), "begin");
  reversed.mutable_begin()->set_seconds(7200);
  reversed.mutable_end()->set_seconds(3600);
  EXPECT_EQ(field_of(reversed), "end");
  granularity.set_granularity(static_cast<api::UsageGranularity>(9));
  EXPECT_EQ(field_of(granularity), "granularity");
  api::ListUsageRecordsRequest records;
  api::ListUsageRecordsResponse page;
  records.set_page_token("nonsense");
  EXPECT_EQ(DetailsOf(Records(records, &page)).field(), "page_token");
  records.clear_page_token();
  records.set_page_size(1001);
  EXPECT_EQ(DetailsOf(Records(records, &page)).field(), "page_size");
  ledger_path_.clear();
  Start();
  granularity.set_granularity(api::USAGE_GRANULARITY_DAY);
  api::GetUsageResponse response;
  const grpc::Status without = Usage(granularity, &response);
  EXPECT_EQ(without.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(DetailsOf(without).info.reason(), "NO_LEDGER");
  EXPECT_EQ(DetailsOf(Records({}, &page)).info.reason(), "NO_LEDGER");
  Generate("acme", "middle", 3);
  ASSERT_TRUE(AllSlotsFree());
  ASSERT_TRUE(Usage({}, &response).ok());
  EXPECT_FALSE(response.durable());
  ByteMicros sum = 0;
  for (const auto& e : response.entries()) sum += Micros(e.weight()) + Micros(e.kv());
  EXPECT_TRUE(sum == Micros(response.total()));
}

TEST_F(UsageTest, MetricsShowTheLedgerAndItsDrift) {
  ScrapeGauges gauges(*probes_, build_, OneModel(info_, [&] { return engine_->load(); }));
  gauges.Add(LedgerMetrics(*ledger_));
  const auto value = [&](const std::string& name) {
    const std::string text = ExpositionText(*probes_, gauges);
    const size_t at = text.find("\n" + name + " ");
    EXPECT_NE(at, std::string::npos) << name;
    return at == std::string::npos ? -1 : std::stod(text.substr(at + name.size() + 2));
  };
  model_.step_micros = 500;
  for (int i = 0; i < 3; ++i) Generate("acme", "middle", 20);
  EXPECT_EQ(value("liftserve_ledger_drift_bytes_seconds"), 0);
  EXPECT_EQ(value("liftserve_ledger_healthy"), 1);
  EXPECT_EQ(value("liftserve_ledger_unwritten_requests"), 0);
  EXPECT_GE(value("liftserve_ledger_commits_total"), 3);
  EXPECT_EQ(value("liftserve_ledger_commit_failures_total"), 0);
  EXPECT_GT(value("liftserve_ledger_last_commit_timestamp_seconds"), 1e9);
  Sql("UPDATE lines SET weight_s = weight_s + 1000 WHERE sequence = 1 AND variant = 'middle'");
  for (int i = 0; i < 3; ++i) Generate("acme", "middle", 2);
  EXPECT_EQ(value("liftserve_ledger_drift_bytes_seconds"), -1000);
}

}  // namespace
}  // namespace lift::test
