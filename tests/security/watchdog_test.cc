#include "server/watchdog.h"

#include <gtest/gtest.h>

#include <future>

namespace lift {
namespace {

// A step that lasts until it is let go.
class HungModel : public StepModel {
 public:
  int64_t vocab_size() const override { return 1; }
  int64_t max_context() const override { return 1; }
  std::span<const LiftedVariant> variants() const override { return {}; }
  int64_t block_tokens() const override { return 1; }
  int64_t num_blocks() const override { return 1; }
  int64_t bytes_per_block() const override { return 1; }
  StepStats Step(std::span<const SequenceChunk>, std::vector<float>&) override {
    release.get_future().wait();
    return {};
  }
  std::promise<void> release;
};

TEST(Watchdog, SaysWhenAStepHangsAndWhenItComesBack) {
  HungModel hung;
  WatchedModel model(hung);
  std::promise<void> barked, calmed;
  Watchdog watchdog(model, 0.05, [&](bool stuck) { (stuck ? barked : calmed).set_value(); });
  EXPECT_EQ(model.seconds_in_step(), 0);
  std::vector<float> logits;
  auto step = std::async(std::launch::async, [&] { model.Step({}, logits); });
  ASSERT_EQ(barked.get_future().wait_for(std::chrono::seconds(20)), std::future_status::ready);
  EXPECT_TRUE(watchdog.stuck());
  EXPECT_GT(model.seconds_in_step(), 0.05);
  hung.release.set_value();
  ASSERT_EQ(calmed.get_future().wait_for(std::chrono::seconds(20)), std::future_status::ready);
  EXPECT_FALSE(watchdog.stuck());
}

// A model may be swapped out between the step's return and the watchdog's next look.
TEST(Watchdog, TakesBackWhatItSaidWhenItGoes) {
  HungModel hung;
  WatchedModel model(hung);
  std::vector<bool> said;
  std::promise<void> barked;
  auto watchdog = std::make_unique<Watchdog>(model, 0.05, [&](bool stuck) {
    said.push_back(stuck);
    if (stuck) barked.set_value();
  });
  std::vector<float> logits;
  auto step = std::async(std::launch::async, [&] { model.Step({}, logits); });
  ASSERT_EQ(barked.get_future().wait_for(std::chrono::seconds(20)), std::future_status::ready);
  watchdog.reset();
  EXPECT_EQ(said, (std::vector<bool>{true, false}));
  hung.release.set_value();
}

TEST(Watchdog, ZeroIsOff) {
  HungModel hung;
  const WatchedModel model(hung);
  const Watchdog watchdog(model, 0, [](bool) { FAIL(); });
  EXPECT_FALSE(watchdog.stuck());
}

}  // namespace
}  // namespace lift
