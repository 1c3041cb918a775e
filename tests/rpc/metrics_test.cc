// What /metrics says after known work, and that a Prometheus parser accepts it.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <map>
#include <regex>
#include <sstream>
#include <thread>

#include "server/metrics/admin_server.h"
#include "server/metrics/scrape.h"
#include "tests/rpc/fixture.h"

namespace lift::test {
namespace {

using Samples = std::map<std::string, double>;

// Parses text format 0.0.4 strictly: names, quoted labels, one HELP and TYPE per family and all its
// samples in one block.
Samples Parse(const std::string& text) {
  static const std::regex sample(
      R"re(([a-zA-Z_:][a-zA-Z0-9_:]*)(\{([a-zA-Z_][a-zA-Z0-9_]*="([^"\\\n]|\\["\\n])*",?)*\})? (\S+))re");
  Samples samples;
  std::map<std::string, std::string> types;
  std::istringstream in(text);
  std::string line, family;
  while (std::getline(in, line)) {
    if (line.starts_with("# HELP ")) continue;
    if (line.starts_with("# TYPE ")) {
      std::istringstream words(line.substr(7));
      std::string type;
      words >> family >> type;
      EXPECT_TRUE(types.emplace(family, type).second) << "family twice: " << family;
      EXPECT_THAT(type, ::testing::AnyOf("counter", "gauge", "histogram"));
      EXPECT_TRUE(family.starts_with("liftserve_")) << family;
      continue;
    }
    std::smatch match;
    EXPECT_TRUE(std::regex_match(line, match, sample)) << line;
    if (match.empty()) continue;
    EXPECT_TRUE(match[1].str().starts_with(family)) << line;
    EXPECT_TRUE(samples.emplace(match[1].str() + match[2].str(), std::stod(match[5].str())).second)
        << "sample twice: " << line;
  }
  EXPECT_TRUE(text.ends_with("\n"));
  return samples;
}

std::string HttpGet(int port, const std::string& path) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  const std::string request = "GET " + path + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
  EXPECT_EQ(write(fd, request.data(), request.size()), static_cast<ssize_t>(request.size()));
  std::string reply;
  char buffer[4096];
  for (ssize_t n; (n = read(fd, buffer, sizeof(buffer))) > 0;)
    reply.append(buffer, static_cast<size_t>(n));
  close(fd);
  return reply;
}

class MetricsTest : public RpcTest {
 protected:
  Samples Scrape() {
    const ScrapeGauges gauges(*probes_, build_, OneModel(info_, [&] { return engine_->load(); }));
    return Parse(ExpositionText(*probes_, gauges));
  }
  grpc::Status Generate(const api::GenerateRequest& request, const std::string& tenant) {
    grpc::ClientContext context;
    context.AddMetadata("x-liftserve-tenant", tenant);
    api::GenerateResponse response;
    return stub_->Generate(&context, request, &response);
  }
};

TEST_F(MetricsTest, CountsWhatWasDone) {
  ASSERT_TRUE(Generate(Request("hello", 10, "middle"), "acme").ok());
  ASSERT_TRUE(Generate(Request("hello", 5, "fine"), "beta").ok());
  ASSERT_FALSE(Generate(Request("", 5), "acme").ok());
  ASSERT_FALSE(Generate(Request("hello", 5, "nonesuch"), "acme").ok());
  ASSERT_TRUE(AllSlotsFree());
  Samples s = Scrape();
  EXPECT_EQ((s[R"(liftserve_requests_total{code="OK",tenant="acme",variant="middle"})"]), 1);
  EXPECT_EQ((s[R"(liftserve_requests_total{code="INVALID_ARGUMENT",tenant="acme",variant=""})"]),
            1);
  EXPECT_EQ((s[R"(liftserve_requests_rejected_total{reason="INVALID_FIELD"})"]), 1);
  EXPECT_EQ((s[R"(liftserve_generation_tokens_total{variant="middle"})"]), 10);
  EXPECT_EQ((s[R"(liftserve_prompt_tokens_total{source="computed"})"]), 12);
  EXPECT_EQ((s[R"(liftserve_time_to_first_token_seconds_count{variant="middle"})"]), 1);
  EXPECT_EQ((s[R"(liftserve_inter_token_latency_seconds_count{variant="middle"})"]), 9);
  EXPECT_EQ(
      (s.count(R"(liftserve_inter_token_latency_seconds_bucket{variant="middle",le="0.00025"})")),
      1u);
  EXPECT_EQ((s[R"(liftserve_router_decisions_total{reason="PINNED",variant="fine"})"]), 1);
  EXPECT_EQ(s["liftserve_e2e_request_latency_seconds_count"], 2);
  EXPECT_EQ(s["liftserve_requests_running"], 0);
  EXPECT_EQ(s["liftserve_draining"], 0);
  EXPECT_EQ((s[R"(liftserve_precision_lambda{model="fake",variant="coarse"})"]), 0.25);
}

TEST_F(MetricsTest, WeightBytesByVariantSumToTheResidentTotal) {
  Samples s = Scrape();
  double sum = 0;
  for (const auto& [name, value] : s) {
    if (name.find("memory_resident_bytes{kind=\"weights\"") != std::string::npos) sum += value;
  }
  EXPECT_EQ(sum, static_cast<double>(info_.resident_bytes));
  EXPECT_GT((s[R"(liftserve_memory_capacity_bytes{device="cpu"})"]), 0);
  EXPECT_EQ((s.count(R"(liftserve_memory_unattributed_bytes{device="cpu"})")), 1u);
}

TEST_F(MetricsTest, AGpusMemoryIsComparedWithWhatItAccountsFor) {
  info_.device = "cuda:0";
  info_.memory_probe = [] { return DeviceMemory{9'000'000'000, 80'000'000'000}; };
  Samples s = Scrape();
  const double accounted =
      static_cast<double>(info_.resident_bytes + info_.state_bytes + info_.workspace_bytes);
  EXPECT_EQ((s[R"(liftserve_memory_capacity_bytes{device="cuda:0"})"]), 80e9);
  EXPECT_EQ((s[R"(liftserve_memory_unattributed_bytes{device="cuda:0"})"]), 9e9 - accounted);
  EXPECT_EQ((s.count(R"(liftserve_memory_unattributed_bytes{device="cpu"})")), 1u);
}

TEST_F(MetricsTest, ByteSecondsHaveTenantVariantAndBasis) {
  model_.step_micros = 500;
  ASSERT_TRUE(Generate(Request("hello", 20, "coarse"), "acme").ok());
  ASSERT_TRUE(AllSlotsFree());
  Samples s = Scrape();
  EXPECT_GT(
      (s[R"(liftserve_memory_byte_seconds_total{tenant="acme",variant="coarse",kind="weights",basis="planes_read"})"]),
      0);
  EXPECT_GT(
      (s[R"(liftserve_memory_byte_seconds_total{tenant="acme",variant="coarse",kind="state",basis="blocks_held"})"]),
      0);
}

TEST_F(MetricsTest, TenantLabelsAreBounded) {
  TenantLabels labels(2);
  EXPECT_EQ(labels.LabelOf("a"), "a");
  EXPECT_EQ(labels.LabelOf("b"), "b");
  EXPECT_EQ(labels.LabelOf("c"), "__other__");
  EXPECT_EQ(labels.LabelOf("a"), "a");
  EXPECT_EQ(labels.LabelOf("__idle__"), "__idle__");
  UsageTotals totals(2);
  for (const char* tenant : {"a", "b", "c", "d"}) totals.AddFinished(info_, tenant, 0, {});
  const auto cells = totals.Snapshot();
  EXPECT_EQ(cells.size(), 3u);
  EXPECT_EQ(cells.at({"__other__", info_.variants[0].name}).requests, 2u);
}

TEST_F(MetricsTest, AdminPortServesItsThreePages) {
  std::atomic<bool> ready{false};
  auto admin = AdminServer::Start("127.0.0.1:0", {.metrics = [] { return "liftserve_x 1\n"; },
                                                  .ready = [&] { return ready.load(); }});
  ASSERT_TRUE(admin.ok()) << admin.status();
  const int port = (*admin)->port();
  EXPECT_THAT(HttpGet(port, "/healthz"), ::testing::StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(HttpGet(port, "/readyz"), ::testing::StartsWith("HTTP/1.1 503"));
  ready = true;
  EXPECT_THAT(HttpGet(port, "/readyz"), ::testing::StartsWith("HTTP/1.1 200"));
  const std::string metrics = HttpGet(port, "/metrics");
  EXPECT_THAT(metrics, ::testing::HasSubstr("text/plain; version=0.0.4"));
  EXPECT_THAT(metrics, ::testing::EndsWith("liftserve_x 1\n"));
  EXPECT_THAT(HttpGet(port, "/etc/passwd"), ::testing::StartsWith("HTTP/1.1 404"));
  EXPECT_EQ(AdminServer::Start("nonsense", {}).status().code(), absl::StatusCode::kInvalidArgument);
  const auto taken = AdminServer::Start("127.0.0.1:" + std::to_string(port), {});
  EXPECT_EQ(taken.status().code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace lift::test
