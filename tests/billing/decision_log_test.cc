// The log of routing decisions in the ledger's file: one row a request, whole after kill -9 and
// restarts, and nothing done to the file behind its back goes unseen or stops the server.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <future>
#include <limits>
#include <random>
#include <thread>

#include "server/billing/ledger_writer.h"

namespace lift {
namespace {

using testing::HasSubstr;

class DecisionLogTest : public ::testing::Test {
 protected:
  DecisionLogTest()
      : folder_(std::filesystem::temp_directory_path() /
                ("decision_log_test_" + std::to_string(getpid()))) {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  ~DecisionLogTest() override { std::filesystem::remove_all(folder_); }
  std::string Path() const { return folder_ / "ledger.db"; }
  std::unique_ptr<Ledger> Open(AuditKey key = {}) {
    auto ledger = Ledger::Open(Path(), LedgerSync::kNormal, std::move(key));
    EXPECT_TRUE(ledger.ok()) << ledger.status();
    return ledger.ok() ? *std::move(ledger) : nullptr;
  }
  // What somebody with the file does to it; returns how many rows changed.
  int Sql(const std::string& sql) {
    sqlite3* db = nullptr;
    EXPECT_EQ(sqlite3_open(Path().c_str(), &db), SQLITE_OK);
    sqlite3_busy_timeout(db, 2000);
    EXPECT_EQ(sqlite3_exec(db, sql.c_str(), nullptr, nullptr, nullptr), SQLITE_OK)
        << sqlite3_errmsg(db);
    const int changed = sqlite3_total_changes(db);
    sqlite3_close(db);
    return changed;
  }
  std::vector<RoutingDecision> Rows() {
    auto file = DecisionFile::Open(Path());
    EXPECT_TRUE(file.ok()) << file.status();
    auto page = (*file)->Page({}, 0, 1000000);
    EXPECT_TRUE(page.ok()) << page.status();
    return page->rows;
  }
  ChainReport Verify(ChainVerifier::Options options = {}) {
    auto file = DecisionFile::Open(Path());
    EXPECT_TRUE(file.ok()) << file.status();
    auto page = (*file)->Page({}, 0, 1000000);
    EXPECT_TRUE(page.ok()) << page.status();
    head_ = page->head;
    ChainVerifier verifier(head_.log_id, std::move(options));
    for (const RoutingDecision& row : page->rows) verifier.Add(row);
    return verifier.Finish(head_);
  }
  // `rows` requests of one epoch that ended.
  void Fill(int rows, AuditKey key = {}, const std::string& tenant = "acme") {
    auto ledger = Open(std::move(key));
    for (int i = 1; i <= rows; ++i) {
      LedgerRecord record = Ended(i);
      record.decision->tenant = tenant;
      ASSERT_TRUE(ledger->Write(std::vector{record}, {}).ok());
    }
  }

  static RoutingDecision Decision(int64_t sequence) {
    RoutingDecision d;
    d.request_id = "r" + std::to_string(sequence), d.tenant = "acme";
    d.time_us = 1700000000000000 + sequence;
    d.model = "m", d.weights_sha256 = "w", d.policy = "p", d.variant = "q3", d.reason = "AUTO";
    d.score = 1.0 / static_cast<double>(sequence + 2), d.lambda = d.served_lambda = 0.396;
    d.prompt_class = "chat", d.language = "en", d.outcome = "OK";
    return d;
  }
  static LedgerRecord Ended(int64_t sequence, LedgerState state = LedgerState::kFinished) {
    LedgerRecord record;
    record.sequence = sequence;
    record.state = state;
    record.request_id = "r" + std::to_string(sequence);
    record.tenant = "acme";
    record.decision = Decision(sequence);
    return record;
  }

  std::filesystem::path folder_;
  DecisionHead head_;
};

TEST_F(DecisionLogTest, ARowEachHoweverOftenItIsWritten) {
  auto ledger = Open();
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(ledger->Write(std::vector{Ended(1), Ended(2)}, {}).ok());
  }
  ASSERT_TRUE(ledger->Write(std::vector{Ended(3)}, {}).ok());
  const ChainReport report = Verify();
  EXPECT_TRUE(report.intact()) << report.fault;
  EXPECT_EQ(report.rows, 3);
  const auto page = ledger->Decisions({}, 1, 1);
  ASSERT_TRUE(page.ok());
  ASSERT_EQ(page->rows.size(), 1u);
  EXPECT_EQ(page->rows[0].request_id, "r2");
  EXPECT_EQ(page->rows[0].score, 0.25);
  EXPECT_EQ(page->head.count, 3);
}

TEST_F(DecisionLogTest, FiltersLeaveRowsOutAndNothingElse) {
  auto ledger = Open();
  for (int i = 1; i <= 10; ++i) {
    LedgerRecord record = Ended(i);
    record.decision->tenant = i % 2 == 0 ? "acme" : "zenith";
    record.decision->variant = i <= 5 ? "q3" : "q8";
    record.decision->time_us = int64_t{i} * 3600 * 1000000;
    ASSERT_TRUE(ledger->Write(std::vector{record}, {}).ok());
  }
  const auto count = [&](const DecisionQuery& query) {
    const auto page = ledger->Decisions(query, 0, 100);
    EXPECT_TRUE(page.ok());
    EXPECT_EQ(page->head.count, 10);
    return page->rows.size();
  };
  EXPECT_EQ(count({}), 10u);
  EXPECT_TRUE(DecisionQuery{}.everything());
  EXPECT_EQ(count({.tenant = "acme"}), 5u);
  EXPECT_EQ(count({.variant = "q8"}), 5u);
  EXPECT_EQ(count({.begin = 3 * 3600, .end = 5 * 3600}), 2u);
  EXPECT_FALSE((DecisionQuery{.end = 5}.everything()));
}

TEST_F(DecisionLogTest, TheChainGoesOnOverRestarts) {
  for (int epoch = 1; epoch <= 4; ++epoch) {
    Fill(5);
    const ChainReport report = Verify();
    ASSERT_TRUE(report.intact()) << report.fault;
    ASSERT_EQ(report.rows, 5 * epoch);
  }
  EXPECT_EQ(Rows().back().epoch, 4);
}

TEST_F(DecisionLogTest, WhatADeadServerHadDecidedIsClosedAtTheNextStart) {
  auto ledger = Open();
  ASSERT_TRUE(ledger
                  ->Write(std::vector{Ended(1, LedgerState::kRunning),
                                      Ended(2, LedgerState::kRunning), Ended(3)},
                          {})
                  .ok());
  LedgerRecord nan = Ended(4, LedgerState::kRunning);
  nan.decision->score = std::numeric_limits<double>::quiet_NaN();  // must not stop the ledger
  ASSERT_TRUE(ledger->Write(std::vector{nan}, {}).ok());
  EXPECT_EQ(Rows().size(), 1u);
  ASSERT_TRUE(ledger->Write(std::vector{Ended(2)}, {}).ok());
  EXPECT_EQ(Rows().size(), 2u);
  ledger.reset();  // without an end of 1 and 4
  ledger = Open();
  const auto rows = Rows();
  ASSERT_EQ(rows.size(), 4u);
  EXPECT_EQ(rows[2].request_id, "r1");
  EXPECT_EQ(rows[2].outcome, "ABORTED");
  EXPECT_EQ(rows[2].epoch, 1);
  EXPECT_EQ(rows[3].score, -1);
  EXPECT_TRUE(Verify().intact()) << Verify().fault;
  ledger = nullptr;
  ledger = Open();
  EXPECT_EQ(Rows().size(), 4u);
}

TEST_F(DecisionLogTest, EveryHandOnTheFileIsSeen) {
  const std::pair<std::string, int64_t> cases[] = {
      {"UPDATE decisions SET tenant = 'zenith' WHERE position = 4", 4},
      {"UPDATE decisions SET lambda = 0.75, variant = 'q8' WHERE position = 7", 7},
      {"UPDATE decisions SET score = score + 1e-16 WHERE position = 7", 7},
      {"UPDATE decisions SET time_us = time_us + 1 WHERE position = 10", 10},
      {"DELETE FROM decisions WHERE position = 1", 1},
      {"DELETE FROM decisions WHERE position IN (5, 6)", 5},
      {"DELETE FROM decisions WHERE position > 8", 9},
      {"DELETE FROM decisions", 1},
      {"DELETE FROM decisions WHERE position = 3; UPDATE decisions SET position = position - 1 "
       "WHERE position > 3",
       3},
      {"UPDATE decisions SET position = -1 WHERE position = 2; UPDATE decisions SET position = 2 "
       "WHERE position = 3; UPDATE decisions SET position = 3 WHERE position = -1",
       2},
      {"UPDATE decision_head SET count = 9", 10},
      {"UPDATE decision_head SET log_id = 'another'", 1},
      {"DELETE FROM decision_head", 1},
      {"DELETE FROM decisions WHERE position = 10; UPDATE decision_head SET count = 9, hash = "
       "(SELECT hash FROM decisions WHERE position = 9)",
       0},  // the head's seal
  };
  for (const auto& [sql, row] : cases) {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    Fill(10);
    ASSERT_TRUE(Verify().intact());
    ASSERT_GT(Sql(sql), 0);
    const ChainReport report = Verify();
    EXPECT_FALSE(report.intact()) << sql;
    EXPECT_EQ(report.fault_row, row) << sql << ": " << report.fault;
    // The server goes on, and the fault stays to be seen.
    Fill(3);
    EXPECT_FALSE(Verify().intact()) << sql;
  }
}

TEST_F(DecisionLogTest, AHeadThatWasKeptShowsACopyThatWasPutBack) {
  Fill(5);
  ASSERT_TRUE(Verify().intact());
  const std::string copy = folder_ / "copy.db";
  Sql("VACUUM INTO '" + copy + "'");
  Fill(5);
  ASSERT_TRUE(Verify().intact());
  const KeptHead kept{head_.count, head_.hash};
  EXPECT_EQ(kept.count, 10);
  for (const char* suffix : {"", "-wal", "-shm"}) std::filesystem::remove(Path() + suffix);
  std::filesystem::rename(copy, Path());
  EXPECT_TRUE(Verify().intact());
  EXPECT_THAT(Verify({.kept = kept}).fault, HasSubstr("the kept head counts 10 rows"));
  Fill(8, {}, "zenith");  // more rows than there were, but others
  EXPECT_THAT(Verify({.kept = kept}).fault, HasSubstr("not the one of the kept head"));
}

TEST_F(DecisionLogTest, AKeyIsNeededFromItsFirstUseOn) {
  const AuditKey key = *AuditKey::FromSecret("a secret of the operator");
  Fill(3);
  Fill(3, key);
  EXPECT_TRUE(Verify().needs_key);
  const ChainReport report = Verify({.key = key, .unkeyed = 3});
  EXPECT_TRUE(report.intact()) << report.fault;
  EXPECT_EQ(report.keyed, 3);
  for (const AuditKey& other : {AuditKey(), *AuditKey::FromSecret("a secret of somebody else")}) {
    const auto refused = Ledger::Open(Path(), LedgerSync::kNormal, other);
    EXPECT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(refused.status().message()), HasSubstr("--audit-key-file"));
  }
  EXPECT_TRUE(Verify({.key = key, .unkeyed = 3}).intact());  // a refused start changed nothing
  // The key's holder does not seal what somebody without it made of the end.
  Sql("DELETE FROM decisions WHERE position = 6");
  DecisionHead forged = head_;
  forged.count = 5, forged.hash = Rows().back().hash;
  Sql("UPDATE decision_head SET count = 5, key_id = '', hash = '" + forged.hash + "', seal = '" +
      HeadSeal(forged, AuditKey()) + "'");
  EXPECT_FALSE(Verify({.key = key, .unkeyed = 3}).intact());
  Fill(2, key);
  EXPECT_FALSE(Verify({.key = key, .unkeyed = 3}).intact());
}

TEST_F(DecisionLogTest, RollingUpLeavesTheLogAlone) {
  Fill(5);
  auto ledger = Open();
  const auto gone = ledger->RollUp(int64_t{1} << 40);
  ASSERT_TRUE(gone.ok());
  EXPECT_EQ(*gone, 5);
  EXPECT_EQ(Rows().size(), 5u);
  EXPECT_TRUE(Verify().intact());
}

TEST_F(DecisionLogTest, OlderFilesGetALogAndFilesWithoutOneAreNamed) {
  Fill(2);
  Sql("DROP TABLE decisions; DROP TABLE open_decisions; DROP TABLE decision_head; PRAGMA "
      "user_version = 3");
  const auto none = DecisionFile::Open(Path());
  EXPECT_EQ(none.status().code(), absl::StatusCode::kFailedPrecondition);
  Fill(4);
  EXPECT_EQ(Verify().rows, 4);
  EXPECT_TRUE(Verify().intact());
  EXPECT_EQ(DecisionFile::Open("/nonexistent.db").status().code(), absl::StatusCode::kUnavailable);
}

// Through the writer, from several threads at once, each request with its own end.
TEST_F(DecisionLogTest, ManyAtOnceAreEachInTheLogWhenTheirEndIsTold) {
  constexpr int kThreads = 4, kEach = 50;
  auto ledger = Open();
  {
    LedgerWriter writer(*ledger, {.checkpoint = std::chrono::milliseconds(4)});
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([&, t] {
        for (int i = 0; i < kEach; ++i) {
          const int64_t sequence = 1 + t * kEach + i;
          writer.Begin({sequence, "r" + std::to_string(sequence), "acme"});
          if (i % 10 == 9) {  // ended before the router decided
            writer.Finish(sequence, {.code = "CANCELLED"});
            continue;
          }
          writer.Decide(sequence, Decision(sequence));
          if (i % 3 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(5));
          writer.Finish(sequence, {.code = "OK", .generated_tokens = 7, .served_lambda = 0.5});
          std::promise<void> told;
          writer.WhenCommitted([&] { told.set_value(); });
          told.get_future().wait();
          const auto page = ledger->Decisions({}, 0, 100000);
          ASSERT_TRUE(page.ok());
          EXPECT_TRUE(std::any_of(page->rows.begin(), page->rows.end(), [&](const auto& row) {
            return row.sequence == sequence && row.outcome == "OK" && row.generated_tokens == 7 &&
                   row.served_lambda == 0.5 && row.request_id == "r" + std::to_string(sequence);
          }));
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
  const ChainReport report = Verify();
  EXPECT_TRUE(report.intact()) << report.fault;
  EXPECT_EQ(report.rows, kThreads * kEach * 9 / 10);
}

// Writes until it is killed; tells on a pipe of every end that was told.
[[noreturn]] void WriteForever(const std::string& path, int pipe, uint64_t seed) {
  auto ledger = Ledger::Open(path, LedgerSync::kNormal);
  if (!ledger.ok()) _exit(1);
  LedgerWriter writer(**ledger, {.checkpoint = std::chrono::milliseconds(6)});
  std::mt19937_64 rng(seed);
  for (int64_t sequence = 1;; ++sequence) {
    writer.Begin({sequence, "r" + std::to_string(sequence), "acme"});
    RoutingDecision d;
    d.score = static_cast<double>(rng() % 100) / 100, d.variant = "q3";
    writer.Decide(sequence, d);
    if (rng() % 2 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(rng() % 5));
    writer.Finish(sequence, {.code = "OK"});
    std::promise<void> told;
    writer.WhenCommitted([&] { told.set_value(); });
    told.get_future().wait();
    if (write(pipe, &sequence, sizeof sequence) < 0) _exit(1);
  }
}

TEST_F(DecisionLogTest, KilledAtAnyMomentItIsWholeAndHasWhatWasTold) {
  int64_t told_in_all = 0;
  for (int round = 0; round < 12; ++round) {
    int ends[2];
    ASSERT_EQ(pipe(ends), 0);
    const pid_t child = fork();
    if (child == 0) WriteForever(Path(), ends[1], static_cast<uint64_t>(round));
    close(ends[1]);
    std::this_thread::sleep_for(std::chrono::milliseconds(40 + 13 * round));
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    int64_t told = 0;
    for (int64_t sequence = 0; read(ends[0], &sequence, sizeof sequence) == sizeof sequence;) {
      told = sequence;
    }
    close(ends[0]);
    if (!std::filesystem::exists(Path())) continue;  // killed before it began
    Open().reset();                                  // closes what was open
    const ChainReport report = Verify();
    ASSERT_TRUE(report.intact()) << report.fault;
    const auto rows = Rows();
    const int64_t epoch = rows.empty() ? 0 : rows.back().epoch;
    const auto of_round = std::count_if(rows.begin(), rows.end(), [&](const auto& row) {
      return row.epoch == epoch && row.outcome == "OK";
    });
    EXPECT_GE(of_round, told);
    told_in_all += told;
  }
  EXPECT_GT(told_in_all, 50);
}

}  // namespace
}  // namespace lift
