// The real models of a server: when they may be swapped, and what a scrape sees meanwhile.
#include "server/model_host.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <thread>

#include "server/errors.h"

namespace lift {
namespace {

ServerConfig TinyConfig() {
  ServerConfig config;
  config.model = LIFT_TEST_DATA "/tiny/tiny-gqa";
  config.threads = 1;
  config.kv_tokens = 512;
  return config;
}

class ModelHostTest : public testing::Test {
 protected:
  absl::Status Swap() {
    std::promise<absl::Status> done;
    services_.swap_model("", [&](absl::Status status) { done.set_value(std::move(status)); });
    return done.get_future().get();
  }

  const BuildInfo build_{.version = "test", .build_type = "test"};
  UsageTotals usage_;
  Probes probes_{usage_};
  rpc::SharedServices services_{build_, usage_};
  std::mutex charging_;
  const ServerConfig config_ = TinyConfig();
  ModelHost host_{config_,
                  {.probes = probes_,
                   .services = services_,
                   .charging = charging_,
                   .stuck = [](bool) {},
                   .report = [](const std::string&) {}}};
};

// gRPC takes calls as soon as it listens, and the first model is put into its place after that.
TEST_F(ModelHostTest, RefusesSwapsUntilItServes) {
  ASSERT_TRUE(host_.Load().ok());
  ASSERT_TRUE(services_.swap_model);
  auto server = rpc::RpcServer::Start(host_.slot(), {});
  ASSERT_TRUE(server.ok()) << server.status();
  const absl::Status early = Swap();
  EXPECT_EQ(early.code(), absl::StatusCode::kFailedPrecondition) << early;
  EXPECT_EQ(ErrorReason(early), "SWAP_IN_PROGRESS");
  ASSERT_TRUE(host_.Serve(**server).ok());
  EXPECT_TRUE(Swap().ok());
}

TEST_F(ModelHostTest, ModelsAreSeenWholeWhileTheyAreSwapped) {
  ASSERT_TRUE(host_.Load().ok());
  auto server = rpc::RpcServer::Start(host_.slot(), {});
  ASSERT_TRUE(server.ok()) << server.status();
  ASSERT_TRUE(host_.Serve(**server).ok());
  std::atomic<bool> over{false};
  std::thread scraper([&] {
    while (!over) {
      const auto loads = host_.loads();
      EXPECT_FALSE(loads.empty());
      for (const ModelLoad& load : loads) EXPECT_EQ(load.info->variants.size(), 1u);
      services_.residency_changed();
    }
  });
  for (int i = 0; i < 10; ++i) EXPECT_TRUE(Swap().ok());
  over = true;
  scraper.join();
}

}  // namespace
}  // namespace lift
