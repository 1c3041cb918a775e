// Whatever is asked of a busy engine, under whatever policy, while variants come and go: no answer
// has a token below its floor.
#include <gtest/gtest.h>

#include "tests/engine/engine_fixture.h"
#include "tests/router/random_router.h"

namespace lift {
namespace {

constexpr int kRequests = 100000, kTogether = 1000;

EngineRequest AnyRequest(router::test::RandomRouter& random, int i) {
  EngineRequest request = MakeRequest({random.Int(0, 255), random.Int(0, 255)}, random.Int(1, 4));
  request.prompt_text = i % 3 == 0 ? "Prove that 2 + 2 = 4, step by step." : "Hi!";
  request.tenant = absl::StrCat("tenant-", i % 3);
  router::PrecisionRequest& precision = request.precision;
  if (random.Int(0, 4) == 0) {
    precision.mode = router::Mode::kPinned;
    precision.variant = random.Int(0, 1) == 0 ? "q3.0" : "q6.0";
  }
  if (random.Int(0, 1) == 0) precision.min_lambda = random.Real(0, 0.8);
  if (random.Int(0, 2) == 0) precision.max_quality_loss = random.Real(1e-3, 1);
  return request;
}

void ExpectAboveFloor(const router::PrecisionRequest& asked, const LiftedVariant& served) {
  EXPECT_GE(served.lambda, asked.min_lambda);
  if (asked.max_quality_loss > 0) {
    EXPECT_LE(served.kl, asked.max_quality_loss);
  }
  if (asked.mode == router::Mode::kPinned) {
    EXPECT_EQ(served.name, asked.variant);
  }
}

struct Counts {
  int served = 0, refused = 0;
};

void Round(router::test::RandomRouter& random, int requests, Counts& counts) {
  FakeModel model({.num_blocks = 128});
  EngineOptions options;
  options.max_waiting = 40;  // often half full and sometimes full
  options.escalation = random.Int(0, 1) * 4.49;
  options.router = random.Config(random.Int(0, 2) > 0);
  Engine engine(model, ByteTokenizer(), options);
  std::vector<std::pair<EngineRequest, std::shared_ptr<RecordingListener>>> live;
  for (int i = 0; i < requests; ++i) {
    EngineRequest request = AnyRequest(random, i);
    auto listener = std::make_shared<RecordingListener>();
    auto submitted = engine.Submit(request, listener);
    // Full: let others go first.
    for (size_t other = live.size() / 2;
         submitted.status().code() == absl::StatusCode::kUnavailable && other < live.size();
         ++other) {
      live[other].second->Wait();
      submitted = engine.Submit(request, listener);
    }
    if (submitted.ok()) {
      live.emplace_back(std::move(request), std::move(listener));
    } else {
      ++counts.refused;
    }
    if (i % 100 == 50) engine.SetResidentVariants(random.Int(2, 5), [](auto) {});
  }
  for (auto& [request, listener] : live) {
    const FinishedEvent end = listener->Wait();
    // Variants that left between submission and its turn may leave nothing above the floor.
    if (!end.status.ok()) {
      EXPECT_EQ(end.status.code(), absl::StatusCode::kFailedPrecondition) << end.status;
      ++counts.refused;
      continue;
    }
    ++counts.served;
    for (const PrecisionSpan& span : end.spans) {
      ExpectAboveFloor(request.precision, model.variants()[static_cast<size_t>(span.variant)]);
    }
  }
}

TEST(EngineFloor, NoTokenIsServedBelowIt) {
  router::test::RandomRouter random(1);
  Counts counts;
  for (int i = 0; i < kRequests / kTogether; ++i) Round(random, kTogether, counts);
  EXPECT_EQ(counts.served + counts.refused, kRequests);
  EXPECT_GT(counts.served, kRequests / 5);
  EXPECT_GT(counts.refused, kRequests / 50);
}

}  // namespace
}  // namespace lift
