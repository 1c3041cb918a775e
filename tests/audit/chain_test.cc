// The chain alone: every change of every field, every removal, move, insertion and cut of a log is
// found, with a key also by whoever cannot make hashes; the encoding is what README.md says.
#include "server/audit/chain.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

namespace lift {
namespace {

using testing::HasSubstr;

AuditKey Key(const std::string& secret = "a secret of the operator") {
  return *AuditKey::FromSecret(secret);
}

struct Log {
  std::string id = "0123456789abcdef0123456789abcdef";
  AuditKey key{};
  std::vector<RoutingDecision> rows{};
  DecisionHead head{};

  void Append(RoutingDecision d) {
    SealDecision(d, static_cast<int64_t>(rows.size()) + 1,
                 rows.empty() ? FirstLink(id) : rows.back().hash, key);
    rows.push_back(d);
  }
  void SealHead() {
    head = {.log_id = id,
            .count = static_cast<int64_t>(rows.size()),
            .hash = rows.empty() ? FirstLink(id) : rows.back().hash,
            .key_id = key.id(),
            .seal = ""};
    head.seal = HeadSeal(head, key);
  }
  // What somebody without the key, but with the program, can do: make all hashes anew.
  void Forge() {
    for (size_t i = 0; i < rows.size(); ++i) {
      SealDecision(rows[i], static_cast<int64_t>(i) + 1, i == 0 ? FirstLink(id) : rows[i - 1].hash,
                   AuditKey());
    }
    key = AuditKey();
    SealHead();
  }
};

RoutingDecision Row(int64_t i) {
  RoutingDecision d;
  d.epoch = 1, d.sequence = i, d.time_us = 1700000000000000 + i;
  d.request_id = "r" + std::to_string(i), d.tenant = i % 2 == 0 ? "acme" : "zenith";
  d.model = "m", d.weights_sha256 = "w", d.policy = "p";
  d.score = 0.1 * static_cast<double>(i), d.variant = "q3", d.lambda = 0.4, d.reason = "AUTO";
  d.outcome = "OK", d.prompt_class = "chat", d.language = "en";
  return d;
}

Log MakeLog(int rows, AuditKey key = {}) {
  Log log;
  log.key = std::move(key);
  for (int i = 1; i <= rows; ++i) log.Append(Row(i));
  log.SealHead();
  return log;
}

ChainReport Verify(const Log& log, ChainVerifier::Options options = {}) {
  ChainVerifier verifier(log.head.log_id, std::move(options));
  for (const RoutingDecision& row : log.rows) verifier.Add(row);
  return verifier.Finish(log.head);
}

TEST(Chain, AnUntouchedLogIsIntact) {
  for (int rows : {0, 1, 2, 50}) {
    const ChainReport plain = Verify(MakeLog(rows));
    EXPECT_TRUE(plain.intact()) << plain.fault;
    EXPECT_EQ(plain.rows, rows);
    EXPECT_EQ(plain.keyed, 0);
    const ChainReport keyed = Verify(MakeLog(rows, Key()), {.key = Key()});
    EXPECT_TRUE(keyed.intact()) << keyed.fault;
    EXPECT_EQ(keyed.keyed, rows);
  }
}

// Changes one field, whichever.
struct Changer {
  int wanted;
  int at = 0;
  void operator()(const char*, int64_t& v) { v += at++ == wanted ? 1 : 0; }
  void operator()(const char*, bool& v) { v = at++ == wanted ? !v : v; }
  void operator()(const char*, double& v) {
    if (at++ == wanted) v = std::nextafter(v, 10);
  }
  void operator()(const char*, std::string& v) {
    if (at++ == wanted) v += v.empty() ? "x" : std::string(1, v.back());
  }
};

TEST(Chain, AnyFieldOfAnyRowThatChangesIsFound) {
  int fields = 0;
  const RoutingDecision none;
  VisitDecision(none, [&](const char*, const auto&) { ++fields; });
  EXPECT_EQ(fields, 32);
  for (int field = 0; field < fields; ++field) {
    for (size_t row : {0, 4, 9}) {
      Log log = MakeLog(10);
      VisitDecision(log.rows[row], Changer{field});
      const ChainReport report = Verify(log);
      EXPECT_FALSE(report.intact()) << "field " << field << " of row " << row + 1;
      if (field <= 1) continue;  // the place itself: the row that is missed is named
      EXPECT_EQ(report.fault_row, static_cast<int64_t>(row) + 1);
    }
  }
}

// Texts that run into each other must not have one encoding.
TEST(Chain, FieldsDoNotFlowIntoEachOther) {
  RoutingDecision a = Row(1), b = Row(1);
  a.request_id = "ab", a.tenant = "c";
  b.request_id = "a", b.tenant = "bc";
  EXPECT_NE(EncodeDecision(a), EncodeDecision(b));
}

TEST(Chain, TheEncodingIsTheDocumentedOne) {
  RoutingDecision d;
  const std::string zero(8, '\0');
  std::string expected = "liftserve.decision.1\n" + std::string("\x01", 1) + zero.substr(1);
  for (int i = 0; i < 4; ++i) expected += zero;  // position, epoch, sequence, time_us
  expected += std::string("\x02", 1) + zero.substr(1) + "id";
  d.request_id = "id";
  d.score = 1.0;
  EXPECT_TRUE(EncodeDecision(d).starts_with(expected));
  // pinned_variant, the floors and fallback are before the score: 4 + 2 texts, 1 flag, 2 numbers.
  EXPECT_THAT(EncodeDecision(d), HasSubstr(std::string("\0\0\0\0\0\0\xF0\x3F", 8)));
}

TEST(Chain, RemovedRowsAreNamed) {
  for (size_t row = 0; row < 9; ++row) {
    Log log = MakeLog(10);
    log.rows.erase(log.rows.begin() + static_cast<std::ptrdiff_t>(row));
    const ChainReport report = Verify(log);
    EXPECT_EQ(report.fault_row, static_cast<int64_t>(row) + 1);
    EXPECT_EQ(report.rows, static_cast<int64_t>(row));
    EXPECT_EQ(report.fault, "row " + std::to_string(row + 1) + " is missing");
  }
  Log log = MakeLog(10);
  log.rows.erase(log.rows.begin() + 3, log.rows.begin() + 6);
  EXPECT_EQ(Verify(log).fault, "rows 4 to 6 are missing");
}

TEST(Chain, ACutEndIsFound) {
  Log log = MakeLog(10);
  log.rows.resize(7);
  EXPECT_EQ(Verify(log).fault_row, 8);
  EXPECT_THAT(Verify(log).fault, HasSubstr("was cut"));
  log.rows.clear();
  EXPECT_FALSE(Verify(log).intact());
  // With the head made anew it takes a head that somebody kept.
  Log whole = MakeLog(10), cut = whole;
  cut.rows.resize(7);
  cut.SealHead();
  EXPECT_TRUE(Verify(cut).intact());
  const KeptHead kept{whole.head.count, whole.head.hash};
  EXPECT_EQ(Verify(cut, {.kept = kept}).fault_row, 8);
  EXPECT_TRUE(Verify(whole, {.kept = kept}).intact());
  whole.Append(Row(11));
  whole.SealHead();
  EXPECT_TRUE(Verify(whole, {.kept = kept}).intact());
}

TEST(Chain, SwappedMovedRepeatedAndForeignRowsAreFound) {
  Log log = MakeLog(10);
  std::swap(log.rows[3], log.rows[4]);
  EXPECT_FALSE(Verify(log).intact());
  log = MakeLog(10);  // contents swapped, places kept
  std::swap(log.rows[3], log.rows[4]);
  std::swap(log.rows[3].position, log.rows[4].position);
  EXPECT_EQ(Verify(log).fault_row, 4);
  std::swap(log.rows[3].previous, log.rows[4].previous);
  std::swap(log.rows[3].hash, log.rows[4].hash);
  EXPECT_EQ(Verify(log).fault_row, 4);
  log = MakeLog(10);
  log.rows.insert(log.rows.begin() + 5, log.rows[4]);
  EXPECT_THAT(Verify(log).fault, HasSubstr("out of order"));
  // A row sealed as if it belonged there does not carry the rest of the chain.
  log = MakeLog(10);
  SealDecision(log.rows[4], 5, log.rows[3].hash, AuditKey());
  EXPECT_TRUE(Verify(log).intact());  // nothing was changed
  log.rows[4].tenant = "other";
  SealDecision(log.rows[4], 5, log.rows[3].hash, AuditKey());
  EXPECT_THAT(Verify(log).fault, HasSubstr("row 6 does not follow row 5"));
  // The log of another server.
  Log other = MakeLog(10);
  other.head.log_id = "another";
  other.head.seal = HeadSeal(other.head, AuditKey());
  EXPECT_EQ(Verify(other).fault_row, 1);
}

TEST(Chain, RandomDamageIsAlwaysFound) {
  std::mt19937 rng(11);
  for (int i = 0; i < 500; ++i) {
    Log log = MakeLog(2 + static_cast<int>(rng() % 12), i % 2 == 0 ? AuditKey() : Key());
    const AuditKey key = log.key;
    ASSERT_TRUE(Verify(log, {.key = key}).intact());
    const size_t at = rng() % log.rows.size(), to = rng() % log.rows.size();
    switch (rng() % 4) {
      case 0:
        log.rows.erase(log.rows.begin() + static_cast<std::ptrdiff_t>(at));
        break;
      case 1:
        VisitDecision(log.rows[at], Changer{static_cast<int>(rng() % 32)});
        break;
      case 2:
        if (at == to) continue;
        std::swap(log.rows[at], log.rows[to]);
        break;
      default:
        log.rows.insert(log.rows.begin() + static_cast<std::ptrdiff_t>(to), log.rows[at]);
    }
    EXPECT_FALSE(Verify(log, {.key = key}).intact()) << i;
  }
}

// Whoever holds the file but not the key cannot make a log that the key's holder believes.
TEST(Chain, WithAKeyAForgeryIsFound) {
  Log forged = MakeLog(10, Key());
  forged.rows[4].lambda = 0.9;
  forged.Forge();
  EXPECT_TRUE(Verify(forged).intact());  // an unkeyed chain proves nothing against its owner
  EXPECT_THAT(Verify(forged, {.key = Key()}).fault, HasSubstr("row 1 has no key"));
  EXPECT_THAT(Verify(forged, {.key = Key(), .unkeyed = 10}).fault, HasSubstr("without"));
  Log own = MakeLog(10, Key("another secret, the forger's"));
  const ChainReport report = Verify(own, {.key = Key()});
  EXPECT_TRUE(report.needs_key);
  EXPECT_FALSE(report.intact());
  Log tail = MakeLog(10, Key());  // keyed rows, then others
  tail.key = AuditKey();
  tail.Append(Row(11));
  tail.SealHead();
  EXPECT_THAT(Verify(tail, {.key = Key()}).fault, HasSubstr("row 11 has no key"));
  Log cut = MakeLog(10, Key());
  cut.rows.resize(5);
  cut.head.count = 5, cut.head.hash = cut.rows.back().hash;
  EXPECT_THAT(Verify(cut, {.key = Key()}).fault, HasSubstr("seal"));
}

TEST(Chain, AKeyMayComeLater) {
  Log log = MakeLog(5);
  log.key = Key();
  for (int i = 6; i <= 8; ++i) log.Append(Row(i));
  log.SealHead();
  EXPECT_TRUE(Verify(log).needs_key);
  EXPECT_TRUE(Verify(log, {.key = Key("another secret, not the log's"), .unkeyed = 5}).needs_key);
  // Somebody who lacks the key could make keyed rows into older ones: their number is to be known.
  EXPECT_THAT(Verify(log, {.key = Key()}).fault, HasSubstr("row 1 has no key"));
  EXPECT_THAT(Verify(log, {.key = Key(), .unkeyed = 4}).fault, HasSubstr("row 5 has no key"));
  const ChainReport report = Verify(log, {.key = Key(), .unkeyed = 5});
  EXPECT_TRUE(report.intact()) << report.fault;
  EXPECT_EQ(report.keyed, 3);
}

// A tenant sees its own rows: each can be checked, that none is missing cannot.
TEST(Chain, SomeRowsAreCheckedOneByOne) {
  Log log = MakeLog(10);
  std::erase_if(log.rows, [](const RoutingDecision& d) { return d.tenant != "acme"; });
  EXPECT_TRUE(Verify(log, {.complete = false}).intact());
  EXPECT_FALSE(Verify(log).intact());
  log.rows[2].score = 0.99;
  EXPECT_EQ(Verify(log, {.complete = false}).fault_row, log.rows[2].position);
}

TEST(Chain, NumbersAreOnesThatAFileKeeps) {
  RoutingDecision d = Row(1);
  d.score = std::numeric_limits<double>::quiet_NaN();
  d.lambda = -0.0;
  d.max_quality_loss = std::numeric_limits<double>::infinity();
  CleanDecision(d);
  EXPECT_EQ(d.score, -1);
  EXPECT_FALSE(std::signbit(d.lambda));
  EXPECT_EQ(d.max_quality_loss, -1);
}

TEST(Chain, KeysAndHeadsAreReadOrRefused) {
  EXPECT_FALSE(AuditKey::FromSecret("too short").ok());
  EXPECT_FALSE(AuditKey::Read("/nonexistent").ok());
  EXPECT_TRUE(AuditKey().none());
  EXPECT_EQ(Key().id().size(), 16u);
  EXPECT_NE(Key().Digest("x"), AuditKey().Digest("x"));
  const std::string hash(64, 'a');
  EXPECT_EQ(ParseKeptHead("12:" + hash)->count, 12);
  for (const std::string& text : {std::string(), std::string("12"), "x:" + hash, "-1:" + hash,
                                  "12:" + hash + "0", "12:" + std::string(64, 'g')}) {
    EXPECT_FALSE(ParseKeptHead(text).ok()) << text;
  }
}

}  // namespace
}  // namespace lift
