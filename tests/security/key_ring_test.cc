#include "server/security/key_ring.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <fstream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "server/errors.h"
#include "server/security/access.h"

namespace lift {
namespace {

using testing::HasSubstr;
using testing::Not;

std::string Entry(const NewKey& key, const std::string& tenant, const std::string& role) {
  return absl::StrCat(R"({"id": ")", key.id, R"(", "tenant": ")", tenant, R"(", "role": ")", role,
                      R"(", "salt": ")", key.salt_hex, R"(", "hash": ")", key.hash_hex, R"("})");
}

std::string KeysFile(const std::string& entries) {
  return absl::StrCat(R"({"keys": [)", entries, "]}");
}

TEST(KeyRing, KnowsItsKeysAndNoOthers) {
  const NewKey user = *MakeKey(), admin = *MakeKey(), stranger = *MakeKey();
  const auto ring = KeyRing::Parse(
      KeysFile(absl::StrCat(Entry(user, "acme", "user"), ",", Entry(admin, "ops", "admin"))));
  ASSERT_TRUE(ring.ok()) << ring.status();
  EXPECT_EQ(*ring->Authenticate(user.key), (Identity{"acme", Role::kUser}));
  EXPECT_EQ(*ring->Authenticate(admin.key), (Identity{"ops", Role::kAdmin}));
  std::string changed = user.key;
  changed.back() = changed.back() == 'A' ? 'B' : 'A';
  // Another key's secret behind this key's id.
  const std::string mixed = user.key.substr(0, 12) + admin.key.substr(12);
  for (const std::string& wrong : {stranger.key, changed, mixed, std::string(), std::string("ls_"),
                                   user.id, user.key.substr(0, 12), std::string(100000, 'x'),
                                   user.key + "x", std::string("ls_") + user.id + "_"}) {
    const auto refused = ring->Authenticate(wrong);
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.status().code(), absl::StatusCode::kUnauthenticated);
    EXPECT_EQ(ErrorReason(refused.status()), "INVALID_CREDENTIALS");
  }
}

TEST(KeyRing, KeysAreRandomAndTheirRecordsDoNotShowThem) {
  const NewKey a = *MakeKey(), b = *MakeKey();
  EXPECT_NE(a.key, b.key);
  EXPECT_NE(a.salt_hex, b.salt_hex);
  const std::string secret = a.key.substr(12);
  EXPECT_GE(secret.size(), 43u);
  EXPECT_THAT(absl::StrCat(a.id, a.salt_hex, a.hash_hex), Not(HasSubstr(secret)));
}

TEST(KeyRing, CertificatesGoBySubjectAlternativeNameFirst) {
  const auto ring = KeyRing::Parse(
      R"({"certificates": [{"name": "spiffe://x/worker", "tenant": "w"},
                           {"name": "old-name", "tenant": "o", "role": "admin"}]})");
  ASSERT_TRUE(ring.ok()) << ring.status();
  EXPECT_EQ(ring->FromCertificate({"spiffe://x/worker", "old-name"})->tenant, "w");
  EXPECT_EQ(*ring->FromCertificate({"other", "old-name"}), (Identity{"o", Role::kAdmin}));
  EXPECT_EQ(ring->FromCertificate({"other"}).status().code(), absl::StatusCode::kUnauthenticated);
  EXPECT_FALSE(ring->FromCertificate({}).ok());
}

TEST(KeyRing, WrongFilesAreNamedAndNothingSecretIsQuoted) {
  const NewKey key = *MakeKey();
  const std::string good = Entry(key, "acme", "user");
  const std::vector<std::pair<std::string, std::string>> cases{
      {"", "not JSON"},
      {"[]", "not a JSON object"},
      {R"({"kyes": []})", "kyes"},
      {R"({"keys": {}})", "not an array"},
      {R"({"keys": [7]})", "keys[0]"},
      {KeysFile(good + "," + good), "twice"},
      {KeysFile(Entry(key, "__idle__", "user")), "tenant"},
      {KeysFile(Entry(key, "acme", "root")), "role"},
      {R"({"keys": [{"id": "12345678", "tenant": "a", "salt": "00", "hash": "00"}]})", "lift-key"},
      {R"({"quotas": {"a b": {}}})", "a b"},
      {R"({"quotas": {"a": {"tokens_per_second": -1}}})", "quotas.a"},
      {R"({"quotas": {"a": {"tokens_per_second": "9"}}})", "tokens_per_second"},
      {R"({"default_quota": {"burst_seconds": 0}})", "burst_seconds"},
      {R"({"default_quota": {"tokens": 1}})", "tokens"},
      {R"({"certificates": [{"name": "", "tenant": "a"}]})", "name is empty"},
  };
  for (const auto& [text, expected] : cases) {
    const auto ring = KeyRing::Parse(text);
    ASSERT_FALSE(ring.ok()) << text;
    EXPECT_THAT(std::string(ring.status().message()), HasSubstr(expected));
    EXPECT_THAT(std::string(ring.status().message()), Not(HasSubstr(key.hash_hex)));
  }
}

TEST(Access, FollowsItsFileAndKeepsTheLastGoodVersion) {
  const std::string path = testing::TempDir() + "keys.json";
  const NewKey first = *MakeKey(), second = *MakeKey();
  const auto write = [&](const std::string& text) {
    std::ofstream(path + ".new") << text;
    ASSERT_EQ(std::rename((path + ".new").c_str(), path.c_str()), 0);
  };
  write(KeysFile(Entry(first, "a", "user")));
  std::atomic<int> reports{0};
  auto access =
      Access::Open(path, std::chrono::milliseconds(10), [&](const std::string&) { ++reports; });
  ASSERT_TRUE(access.ok()) << access.status();
  const auto becomes = [&](const std::string& key, bool known) {
    for (int i = 0; i < 500; ++i) {
      if ((*access)->ring()->Authenticate(key).ok() == known) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
  };
  write(KeysFile(Entry(second, "b", "user")));
  EXPECT_TRUE(becomes(second.key, true));
  EXPECT_TRUE(becomes(first.key, false));  // a deleted key stops working without a restart
  const int before = reports;
  write("{");
  while (reports == before) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_TRUE((*access)->ring()->Authenticate(second.key).ok());
  EXPECT_FALSE(Access::Open(path, std::chrono::milliseconds(10), nullptr).ok());
  EXPECT_FALSE(Access::Open("/nonexistent", std::chrono::milliseconds(10), nullptr).ok());
}

}  // namespace
}  // namespace lift
