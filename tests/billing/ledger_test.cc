// The ledger against SQLite itself, and its writer under random schedules and kill -9.
#include "server/billing/ledger.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <future>
#include <map>
#include <random>
#include <set>

#include "server/billing/invoice.h"
#include "server/billing/ledger_schema.h"
#include "server/billing/ledger_writer.h"
#include "server/billing/sqlite.h"

namespace lift {
namespace {

class LedgerTest : public ::testing::Test {
 protected:
  LedgerTest()
      : folder_(std::filesystem::temp_directory_path() /
                ("ledger_test_" + std::to_string(getpid()))) {
    std::filesystem::create_directories(folder_);
  }
  ~LedgerTest() override { std::filesystem::remove_all(folder_); }
  std::string Path(const std::string& name = "ledger.db") const { return folder_ / name; }
  std::unique_ptr<Ledger> Open(LedgerSync sync = LedgerSync::kNormal) {
    auto ledger = Ledger::Open(Path(), sync);
    EXPECT_TRUE(ledger.ok()) << ledger.status();
    return ledger.ok() ? *std::move(ledger) : nullptr;
  }
  // Runs a statement on the file behind the ledger's back.
  void Sql(const std::string& sql) {
    sqlite3* db = nullptr;
    ASSERT_EQ(sqlite3_open(Path().c_str(), &db), SQLITE_OK);
    sqlite3_busy_timeout(db, 2000);
    EXPECT_EQ(sqlite3_exec(db, sql.c_str(), nullptr, nullptr, nullptr), SQLITE_OK)
        << sqlite3_errmsg(db);
    sqlite3_close(db);
  }

  std::filesystem::path folder_;
};

ByteMicros Total(const std::vector<LedgerSum>& sums) {
  ByteMicros total = 0;
  for (const LedgerSum& sum : sums) total += sum.weight_byte_us + sum.kv_byte_us;
  return total;
}

LedgerRecord Record(int64_t sequence, const std::string& tenant, int64_t hour, ByteMicros weight,
                    LedgerState state = LedgerState::kFinished) {
  LedgerRecord record;
  record.sequence = sequence;
  record.state = state;
  record.request_id = "r" + std::to_string(sequence);
  record.tenant = tenant;
  record.variant = "q3";
  record.prompt_tokens = sequence, record.generated_tokens = 2 * sequence;
  record.started_us = hour * 1000000;
  record.lines.push_back({hour, "q3", 0.4, weight, weight / 3});
  return record;
}

TEST_F(LedgerTest, WritingTwiceChargesOnceAndFinalIsFinal) {
  auto ledger = Open();
  const ByteMicros huge = ByteMicros{5} << 70;  // more than 64 bits of byte-microseconds
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(ledger->Write(std::vector{Record(1, "acme", 3600, huge)}, {}).ok());
  }
  auto late = Record(1, "acme", 3600, huge, LedgerState::kRunning);
  ASSERT_TRUE(ledger->Write(std::vector{late}, {}).ok());
  const auto records = ledger->Records({}, 0, 0, 10);
  ASSERT_TRUE(records.ok()) << records.status();
  ASSERT_EQ(records->size(), 1u);
  EXPECT_EQ(records->front().state, LedgerState::kFinished);
  const auto sums = ledger->Sums({.tenant = "acme"}, Ledger::Granularity::kTotal);
  ASSERT_TRUE(sums.ok());
  EXPECT_TRUE(Total(*sums) == huge + huge / 3);
  EXPECT_TRUE(ledger->Sums({.tenant = "other"}, Ledger::Granularity::kTotal)->empty());
  EXPECT_TRUE(ledger->Sums({.begin = 7200}, Ledger::Granularity::kTotal)->empty());
}

TEST_F(LedgerTest, OneServerPerFileAndNoNewerFile) {
  auto ledger = Open();
  const auto second = Ledger::Open(Path(), LedgerSync::kNormal);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()), testing::HasSubstr("another running"));
  ledger.reset();
  Sql("PRAGMA user_version = 99");
  EXPECT_EQ(Ledger::Open(Path(), LedgerSync::kNormal).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Ledger::Open("/nonexistent/dir/x.db", LedgerSync::kNormal).status().code(),
            absl::StatusCode::kUnavailable);
}

TEST_F(LedgerTest, AnOlderFileIsMigratedWithItsRows) {
  auto ledger = Open();
  ASSERT_TRUE(ledger->Write(std::vector{Record(1, "acme", 3600, 900)}, {}).ok());
  ledger.reset();
  Sql("DROP TABLE daily; DROP INDEX requests_by_state; DROP INDEX requests_by_start; DROP TABLE "
      "decisions; DROP TABLE open_decisions; DROP TABLE decision_head; PRAGMA user_version = "
      "1");  // version 1
  ledger = Open();
  ASSERT_NE(ledger, nullptr);
  EXPECT_EQ(ledger->epoch(), 2);
  EXPECT_TRUE(Total(*ledger->Sums({}, Ledger::Granularity::kTotal)) == ByteMicros{1200});
  EXPECT_TRUE(ledger->RollUp(86400).ok());
}

TEST_F(LedgerTest, RollingUpKeepsEverySumByDay) {
  auto ledger = Open();
  std::mt19937_64 rng(3);
  std::vector<LedgerRecord> records;
  for (int i = 1; i <= 300; ++i) {
    records.push_back(Record(i, "t" + std::to_string(rng() % 4),
                             static_cast<int64_t>(rng() % 96) * 3600, rng() % 1000000000));
    if (i % 50 == 0) records.back().state = LedgerState::kRunning;
    // A second hour of the same request: it still counts once.
    LedgerLine next = records.back().lines[0];
    next.hour += 3600;
    if (i % 3 == 0 && next.hour % 86400 != 0) records.back().lines.push_back(next);
  }
  ASSERT_TRUE(ledger->Write(records, {}).ok());
  const auto before = ledger->Sums({}, Ledger::Granularity::kDay);
  const auto folded = ledger->RollUp(2 * 86400 + 5000);  // cut to the day
  ASSERT_TRUE(folded.ok()) << folded.status();
  EXPECT_GT(*folded, 100);
  EXPECT_TRUE(*ledger->RollUp(2 * 86400) == 0);
  const auto left = ledger->Records({}, 0, 0, 1000);
  EXPECT_EQ(static_cast<int64_t>(left->size()) + *folded, 300);
  EXPECT_TRUE(ledger->RollUp(4 * 86400).ok());  // onto days that may have sums already
  const auto after = ledger->Sums({}, Ledger::Granularity::kDay);
  ASSERT_EQ(before->size(), after->size());
  for (size_t i = 0; i < before->size(); ++i) {
    EXPECT_EQ((*before)[i].tenant, (*after)[i].tenant);
    EXPECT_TRUE((*before)[i].weight_byte_us == (*after)[i].weight_byte_us);
    EXPECT_TRUE((*before)[i].kv_byte_us == (*after)[i].kv_byte_us);
    EXPECT_EQ((*before)[i].requests, (*after)[i].requests);
    EXPECT_EQ((*before)[i].prompt_tokens, (*after)[i].prompt_tokens);
    EXPECT_EQ((*before)[i].generated_tokens, (*after)[i].generated_tokens);
  }
}

// A server's life as the writer sees it: random requests come, run at changing variants, are
// cancelled or end; memory is sometimes resized. Calls `told` with a sequence once it is committed.
class Load {
 public:
  Load(LedgerWriter& writer, uint64_t seed, int64_t& clock_us)
      : writer_(writer), rng_(seed), clock_us_(clock_us) {}

  void Step(const std::function<void(int64_t)>& told) {
    clock_us_ += static_cast<int64_t>(rng_() % 2000000);
    if (rng_() % 50 == 0) planes_ = 1 + rng_() % (uint64_t{1} << 36);
    std::vector<MeterSequence> sequences;
    for (const int64_t id : live_) {
      sequences.push_back({id, rng_() % 4 == 0 ? 0 : planes_ / (1 + rng_() % 3), rng_() % 5000});
    }
    Charge(sequences, 1 + rng_() % 2000000);
    if (live_.size() < 8 && rng_() % 2 == 0) {
      live_.push_back(next_);
      writer_.Begin({next_, "r" + std::to_string(next_), "t" + std::to_string(next_ % 5)});
      ++next_;
    }
    if (live_.empty() || rng_() % 3 != 0) return;
    const int64_t ended = live_[rng_() % live_.size()];
    std::erase(live_, ended);
    writer_.Finish(ended, {.variant = "q3",
                           .code = rng_() % 5 == 0 ? "CANCELLED" : "OK",
                           .finish_reason = "LENGTH",
                           .generated_tokens = ended});
    writer_.WhenCommitted([told, ended] { told(ended); });
  }
  ByteMicros resident() const { return resident_; }
  std::map<int64_t, ByteMicros> charged;  // by sequence

 private:
  void Charge(const std::vector<MeterSequence>& sequences, uint64_t micros) {
    const MeterSplit split = SplitInterval(977, planes_, 50000, sequences, micros);
    std::vector<LedgerWriter::Charge> charges;
    const auto add = [&](int64_t id, bool kv, ByteMicros byte_us) {
      const bool fine = rng_() % 2 == 0;
      charges.push_back({id, id <= 0 ? "" : fine ? "q6" : "q3", fine ? 0.6 : 0.4, kv, byte_us});
      charged[id] += byte_us;
    };
    for (const MeterShare& share : split.shares) {
      add(share.id, false, share.weight);
      add(share.id, true, share.kv);
    }
    add(0, false, split.idle_weight);
    add(-1, false, split.overhead_weight);
    add(-1, true, split.overhead_kv);
    const ByteMicros all = (ByteMicros{977} + planes_ + 50000) * micros;
    resident_ += all;
    writer_.Add(charges, all);
  }

  LedgerWriter& writer_;
  std::mt19937_64 rng_;
  int64_t& clock_us_;
  uint64_t planes_ = 1000003;
  int64_t next_ = 1;
  std::vector<int64_t> live_;
  ByteMicros resident_ = 0;
};

TEST_F(LedgerTest, ConservesOverRandomSchedulesAcrossRestarts) {
  std::atomic<int64_t> shared_clock{0};
  int64_t clock = 0;
  ByteMicros resident = 0;
  int64_t told = 0;
  for (int epoch = 0; epoch < 4; ++epoch) {
    auto ledger = Open();
    {
      LedgerWriter writer(*ledger, {.checkpoint = std::chrono::milliseconds(1),
                                    .now_us = [&] { return shared_clock.load(); }});
      Load load(writer, static_cast<uint64_t>(epoch), clock);
      std::atomic<int64_t> count{0};
      for (int step = 0; step < 25000; ++step) {
        load.Step([&](int64_t) { ++count; });
        shared_clock = clock;
      }
      resident += load.resident();
      std::promise<void> done;
      writer.WhenCommitted([&] { done.set_value(); });
      done.get_future().wait();
      told += count;
    }
    const auto audit = ledger->Audit(std::nullopt);
    ASSERT_TRUE(audit.ok()) << audit.status();
    EXPECT_TRUE(audit->exact());
    EXPECT_TRUE(audit->resident == resident);
  }
  auto ledger = Open();
  EXPECT_TRUE(Total(*ledger->Sums({}, Ledger::Granularity::kHour)) == resident);
  EXPECT_GT(told, 10000);
}

// The child serves until it is killed, anywhere; the parent reads what it acknowledged from a pipe.
TEST_F(LedgerTest, KilledAnywhereItNeverLosesOrDoublesWhatWasAcknowledged) {
  std::mt19937_64 rng(11);
  std::map<int64_t, std::set<int64_t>> acknowledged;  // by epoch
  for (int round = 0; round < 40; ++round) {
    int pipe_fds[2];
    ASSERT_EQ(pipe(pipe_fds), 0);
    const pid_t child = fork();
    if (child == 0) {
      auto ledger = Ledger::Open(Path(), LedgerSync::kNormal);
      if (!ledger.ok()) _exit(3);
      LedgerWriter writer(**ledger, {.checkpoint = std::chrono::milliseconds(5)});
      int64_t clock = 0;
      Load load(writer, rng() + static_cast<uint64_t>(round), clock);
      for (;;) {
        load.Step([&](int64_t sequence) {
          const int64_t message[2] = {(*ledger)->epoch(), sequence};
          if (write(pipe_fds[1], message, sizeof(message)) != sizeof(message)) _exit(4);
        });
        usleep(50);
      }
    }
    close(pipe_fds[1]);
    usleep(20000 + static_cast<useconds_t>(rng() % 30000));
    kill(child, SIGKILL);
    int64_t message[2];
    while (read(pipe_fds[0], message, sizeof(message)) == sizeof(message)) {
      EXPECT_TRUE(acknowledged[message[0]].insert(message[1]).second) << "acknowledged twice";
    }
    close(pipe_fds[0]);
    int status = 0;
    waitpid(child, &status, 0);
    ASSERT_TRUE(WIFSIGNALED(status)) << "the child ended by itself: " << status;
    auto ledger = Open();
    const auto audit = ledger->Audit(std::nullopt);
    ASSERT_TRUE(audit.ok());
    ASSERT_TRUE(audit->exact()) << "round " << round;
  }
  auto ledger = Open();
  const auto records = ledger->Records({}, 0, 0, 10000000);
  ASSERT_TRUE(records.ok());
  size_t found = 0;
  for (const LedgerRecord& record : *records) {
    EXPECT_NE(record.state, LedgerState::kRunning);
    const bool told = acknowledged[record.epoch].contains(record.sequence);
    found += told ? 1 : 0;
    if (told) {
      EXPECT_EQ(record.state, LedgerState::kFinished);
      EXPECT_EQ(record.generated_tokens, record.sequence);
    }
  }
  size_t all = 0;
  for (const auto& [epoch, sequences] : acknowledged) all += sequences.size();
  EXPECT_EQ(found, all);
  EXPECT_GT(all, 100u);
}

// What is in the file began at most a picture and a charge before the next picture, and a quarter
// of the interval is left for the disk.
TEST(LedgerIntervals, LeaveRoomForTheDiskWithinTheInterval) {
  for (const int ms : {4, 10, 100, 1000, 3600000}) {
    const std::chrono::milliseconds interval(ms);
    EXPECT_LE(PictureInterval(interval) + ChargeInterval(interval), interval * 3 / 4);
    EXPECT_GE(PictureInterval(interval), std::chrono::milliseconds(1));
    EXPECT_LE(ChargeInterval(interval), std::chrono::seconds(1));
  }
}

// Everything told so far is committed and the writer has looked at it again.
void Settle(LedgerWriter& writer) {
  for (int i = 0; i < 3; ++i) {
    std::promise<void> done;
    writer.WhenCommitted([&] { done.set_value(); });
    done.get_future().wait();
  }
}

TEST_F(LedgerTest, DriftShowsWhatTheFileLost) {
  std::atomic<int64_t> clock{3600 * 1000000LL};
  auto ledger = Open();
  LedgerWriter writer(*ledger, {.checkpoint = std::chrono::milliseconds(1),
                                .now_us = [&] { return clock.load(); }});
  const std::vector<LedgerWriter::Charge> charges = {{1, "q3", 0.4, false, 5000000}};
  writer.Begin({1, "r1", "acme"});
  writer.Add(charges, 5000000);
  writer.Finish(1, {});
  Settle(writer);
  EXPECT_EQ(writer.stats().drift_byte_seconds, 0);
  EXPECT_EQ(writer.stats().unwritten, 0);
  Sql("DELETE FROM lines WHERE sequence = 1");
  clock += 61 * 1000000LL;
  Settle(writer);
  EXPECT_DOUBLE_EQ(writer.stats().drift_byte_seconds, 5.0);
  // A file that cannot be written holds nobody back, is reported, and is caught up with.
  Sql("ALTER TABLE requests RENAME TO away");
  writer.Begin({2, "r2", "acme"});
  writer.Finish(2, {.code = "OK"});
  Settle(writer);
  EXPECT_FALSE(writer.healthy());
  EXPECT_EQ(writer.stats().unwritten, 1);
  Sql("ALTER TABLE away RENAME TO requests");
  Settle(writer);
  EXPECT_TRUE(writer.healthy());
  EXPECT_EQ(ledger->Records({}, ledger->epoch(), 1, 10)->size(), 1u);
  EXPECT_EQ(writer.stats().unwritten, 0);
}

TEST_F(LedgerTest, DriftIsAgainstTheMeterAndOutlivesItsHour) {
  std::atomic<int64_t> clock{3600 * 1000000LL};
  auto ledger = Open();
  std::vector<std::string> reports;
  LedgerWriter writer(*ledger, {.checkpoint = std::chrono::milliseconds(1),
                                .drift_check = std::chrono::seconds(0),
                                .now_us = [&] { return clock.load(); },
                                .report = [&](const std::string& s) { reports.push_back(s); }});
  const std::vector<LedgerWriter::Charge> charges = {{1, "q3", 0.4, false, 5000000}};
  writer.Begin({1, "r1", "acme"});
  writer.Add(charges, 5000000, 5000000);
  Settle(writer);
  EXPECT_EQ(writer.stats().drift_byte_seconds, 0);
  EXPECT_EQ(writer.stats().last_commit_us, clock.load());
  writer.Add(charges, 5000000, 13000000);  // the metrics counted 3 byte-seconds nobody was charged
  Settle(writer);
  EXPECT_DOUBLE_EQ(writer.stats().drift_byte_seconds, 3.0);
  Sql("UPDATE lines SET weight_s = weight_s + 100 WHERE sequence = 1");
  Settle(writer);
  EXPECT_DOUBLE_EQ(writer.stats().drift_byte_seconds, -97.0);
  clock += 3600 * 1000000LL;
  writer.Add(charges, 5000000, 18000000);
  Settle(writer);
  EXPECT_DOUBLE_EQ(writer.stats().drift_byte_seconds, -97.0);
  clock += 3600 * 1000000LL;
  writer.Add(charges, 5000000, 23000000);
  Settle(writer);
  EXPECT_DOUBLE_EQ(writer.stats().drift_byte_seconds, -97.0);  // what was wrong stays wrong
  Sql("ALTER TABLE requests RENAME TO away");
  writer.Finish(1, {.code = "OK"});
  Settle(writer);
  Sql("ALTER TABLE away RENAME TO requests");
  Settle(writer);
  ASSERT_EQ(reports.size(), 2u);
  EXPECT_THAT(reports[0], testing::HasSubstr("no such table: requests; answers go on"));
  EXPECT_THAT(reports[1], testing::HasSubstr("written again"));
}

TEST(Invoice, AddsUpToTheLastByteSecond) {
  std::mt19937_64 rng(9);
  const auto tiers = ParsePriceTiers("economy=0.5:0.8,premium=1:1.25");
  ASSERT_TRUE(tiers.ok());
  for (int trial = 0; trial < 1000; ++trial) {
    std::vector<LedgerSum> sums;
    ByteMicros all = 0;
    for (int i = 0; i < 20; ++i) {
      const int shift = static_cast<int>(rng() % 50);
      sums.push_back({0, "t", "v", static_cast<double>(rng() % 100) / 100,
                      ByteMicros{rng()} << shift >> 20, ByteMicros{rng()} >> 10});
      all += sums.back().weight_byte_us + sums.back().kv_byte_us;
    }
    const auto made = MakeInvoice(sums, *tiers, 20000000);
    ASSERT_TRUE(made.ok()) << made.status();
    const Invoice& invoice = *made;
    ASSERT_TRUE(invoice.byte_us == all);
    ByteMicros lines = 0;
    int64_t amount = 0;
    for (const InvoiceLine& line : invoice.lines) {
      lines += line.byte_us;
      amount += line.amount;
      ASSERT_EQ(line.unit_price, line.lambda <= 0.5 ? 16000000 : 25000000);
      const long double exact = static_cast<long double>(line.byte_us) / 1e6L / 1073741824 / 3600 *
                                static_cast<long double>(line.unit_price);
      ASSERT_NEAR(static_cast<long double>(line.amount), exact, 0.5L + exact * 1e-15L);
    }
    ASSERT_TRUE(lines == all);
    ASSERT_EQ(amount, invoice.amount);
  }
}

TEST(Invoice, PricesAndTiersAreReadExactly) {
  EXPECT_EQ(*ParsePrice("0.02"), 20000000);
  EXPECT_EQ(*ParsePrice("12"), 12000000000);
  EXPECT_EQ(PriceText(20000000), "0.02");
  EXPECT_EQ(PriceText(12000000000), "12.00");
  EXPECT_EQ(PriceText(123456789), "0.123456789");
  for (const char* bad : {"", ".5", "1.", "-1", "1e3", "0.0000000001", "1,5", "1000000"}) {
    EXPECT_FALSE(ParsePrice(bad).ok()) << bad;
  }
  for (const char* bad : {"x", "a=0.5:1", "a=1:1,b=0.5:1", "a=2:1", "=1:1", "a=1:x", "a b=1:1",
                          "a=-0.5:1,b=1:1", "a=nan:1,b=1:1"}) {
    EXPECT_FALSE(ParsePriceTiers(bad).ok()) << bad;
  }
  EXPECT_EQ(ParsePriceTiers("")->size(), 1u);
}

// A thousandfold of the highest price took 64 bits over before and made the bill negative.
TEST(Invoice, MoneyBeyond64BitsIsRefused) {
  const std::vector<LedgerSum> gib_hour = {{0, "t", "v", 1, ByteMicros{3600000000} << 30, 0}};
  const auto dear = ParsePriceTiers("dear=1:1000");
  ASSERT_TRUE(dear.ok());
  const auto made = MakeInvoice(gib_hour, *dear, *ParsePrice("999999.999999999"));
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(made->amount, 999999999999999000);
  const std::vector<LedgerSum> ten(10, gib_hour[0]);
  EXPECT_EQ(MakeInvoice(ten, *dear, *ParsePrice("999999.999999999")).status().code(),
            absl::StatusCode::kOutOfRange);
}

}  // namespace
}  // namespace lift
