// The engine on the real graph of every family: what is served is what is computed offline, alone,
// in mixed batches, after preemption and beside cancelled requests.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>

#include "calibration/calibrator.h"
#include "calibration/eval/generate.h"
#include "calibration/eval/session.h"
#include "tests/engine/recording.h"
#include "tests/model/runner.h"

namespace lift {
namespace {

using namespace std::chrono_literals;
using testing::TestModel;

const std::string kFamilies = LIFT_TEST_DATA "/families/";
constexpr int64_t kBlockTokens = 4;

// Forwards to a model, slowly, and counts how often a sequence is read from its beginning.
class SlowModel : public StepModel {
 public:
  explicit SlowModel(StepModel& model) : model_(model) {}
  int64_t vocab_size() const override { return model_.vocab_size(); }
  int64_t max_context() const override { return model_.max_context(); }
  std::span<const LiftedVariant> variants() const override { return model_.variants(); }
  int64_t block_tokens() const override { return model_.block_tokens(); }
  int64_t num_blocks() const override { return model_.num_blocks(); }
  int64_t bytes_per_block() const override { return model_.bytes_per_block(); }
  bool reusable_state() const override { return model_.reusable_state(); }
  int64_t state_window() const override { return model_.state_window(); }
  void CopyState(int32_t from, int32_t to) override { model_.CopyState(from, to); }
  bool swappable_state() const override { return model_.swappable_state(); }
  void SaveBlock(int32_t block, std::span<std::byte> out) override { model_.SaveBlock(block, out); }
  void RestoreBlock(int32_t block, std::span<const std::byte> in) override {
    model_.RestoreBlock(block, in);
  }
  StepStats Step(std::span<const SequenceChunk> chunks, std::vector<float>& logits) override {
    std::this_thread::sleep_for(500us);
    for (const SequenceChunk& chunk : chunks) beginnings += chunk.position == 0 ? 1 : 0;
    return model_.Step(chunks, logits);
  }
  std::atomic<int> beginnings{0};

 private:
  StepModel& model_;
};

class EngineFamily : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const std::string path =
        (std::filesystem::temp_directory_path() / ("lift_engine_" + std::to_string(getpid())))
            .string();
    CalibrationOptions options;
    options.model_path = kFamilies + GetParam();
    options.out_path = path;
    options.calib_paths = {LIFT_TEST_DATA "/text/node_modules_and_packages.txt"};
    options.variants = {{4.5, {}, {}}, {7.0, {}, {}}, {{}, 1.0, {}}};
    options.quality = CalibrationQuality::kFast;
    options.data.samples = 2;
    options.data.context = 32;
    options.chain = {2, 2, 2};
    options.beam = 16;
    options.threads = 2;
    options.measure = options.show_progress = false;
    const auto result = Calibrate(options);
    ASSERT_TRUE(result.ok()) << result.status();
    auto weights = Weights::Open(path);
    std::filesystem::remove(path);  // stays mapped
    ASSERT_TRUE(weights.ok()) << weights.status();
    weights_ = *weights;
    auto tokenizer = eval::LoadTokenizer(*weights_);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = *tokenizer;
  }

  std::unique_ptr<TestModel> Model(int64_t blocks) const {
    Transformer::Options options;
    options.block_tokens = kBlockTokens;
    options.num_blocks = blocks;
    return std::make_unique<TestModel>(weights_, 2, options);
  }

  EngineRequest Request(int seed, int64_t prompt, int64_t max_new) const {
    EngineRequest request;
    for (int64_t i = 0; i < prompt; ++i)
      request.prompt.push_back(static_cast<int32_t>(4 + (seed * 91 + i * 37) % 320));
    request.precision.mode = router::Mode::kPinned;
    request.precision.variant = weights_->variants()[static_cast<size_t>(seed % 3)].name;
    request.stopping.max_new_tokens = max_new;
    request.stopping.ignore_eos = true;
    request.sampling.seed = static_cast<uint64_t>(seed);
    if (seed % 4 == 3) request.sampling.temperature = 0.8;
    return request;
  }

  std::vector<int32_t> Offline(const EngineRequest& request, int64_t blocks = 64) const {
    const auto model = Model(blocks);
    GenerateOptions options;
    options.variant = weights_->FindVariant(request.precision.variant);
    options.prefill_variant = 2;
    options.max_new_tokens = request.stopping.max_new_tokens;
    options.sampling = request.sampling;
    const auto answer = GenerateTokens(*model->model, request.prompt, options);
    EXPECT_TRUE(answer.ok()) << answer.status();
    return answer.value_or(std::vector<int32_t>());
  }

  void PreemptSome(EngineOptions options) const;
  bool recurrent() const { return weights_->config().recurrent(); }

  std::shared_ptr<const Weights> weights_;
  std::shared_ptr<const Tokenizer> tokenizer_;
};

TEST_P(EngineFamily, AMixedBatchEqualsOffline) {
  const auto model = Model(recurrent() ? 8 : 200);
  RecordingObserver observer;
  {
    Engine engine(*model->model, tokenizer_,
                  {.max_batch = 8, .prefill_chunk_tokens = 7, .observer = &observer});
    std::vector<EngineRequest> requests;
    std::vector<std::shared_ptr<RecordingListener>> listeners;
    for (int i = 0; i < 8; ++i) {
      requests.push_back(Request(i, 3 + 5 * i, 12));
      listeners.push_back(std::make_shared<RecordingListener>());
      ASSERT_TRUE(engine.Submit(requests.back(), listeners.back()).ok());
    }
    for (size_t i = 0; i < 8; ++i) {
      EXPECT_EQ(listeners[i]->Wait().reason, FinishReason::kLength);
      EXPECT_EQ(listeners[i]->ids(), Offline(requests[i])) << i;
      EXPECT_GT(listeners[i]->Wait().usage.kv_byte_us, ByteMicros{0});  // its state is billed
    }
    EXPECT_TRUE(engine.Drain(10s));
    EXPECT_EQ(engine.load().blocks_used, 0);
  }
  EXPECT_EQ(observer.finished, 8);  // RecordingObserver checks that charges add up
}

TEST_P(EngineFamily, APromptReadAgainGivesTheSameTokens) {
  const auto model = Model(recurrent() ? 5 : 64);
  Engine engine(*model->model, tokenizer_, {.snapshot_tokens = 8});
  const EngineRequest request = Request(0, 30, 10);
  const std::vector<int32_t> expected = Offline(request);
  for (int i = 0; i < 3; ++i) {
    auto listener = std::make_shared<RecordingListener>();
    ASSERT_TRUE(engine.Submit(request, listener).ok());
    listener->Wait();
    EXPECT_EQ(listener->ids(), expected);
    // Blocks of attention are shared, recurrent state goes on from a snapshot.
    EXPECT_EQ(listener->started()->cached_tokens, i == 0 ? 0 : recurrent() ? 24 : 28);
  }
}

// Four sequences of 11 blocks in a pool of 24; of recurrent ones, in a pool of two states.
void EngineFamily::PreemptSome(EngineOptions options) const {
  const auto model = Model(recurrent() ? 2 : 24);
  SlowModel slow(*model->model);
  options.max_batch = 4;
  options.prefill_chunk_tokens = 8;
  options.prefix_cache = false;
  options.patience = 1ms;
  Engine engine(slow, tokenizer_, options);
  std::vector<EngineRequest> requests;
  std::vector<std::shared_ptr<RecordingListener>> listeners;
  for (int i = 0; i < 4; ++i) {
    requests.push_back(Request(i, 4, 40));
    requests.back().priority = i;  // later ones displace earlier ones
    listeners.push_back(std::make_shared<RecordingListener>());
    ASSERT_TRUE(engine.Submit(requests.back(), listeners.back()).ok());
    EXPECT_TRUE(i >= 2 || listeners.back()->WaitForTokens(1));
  }
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(listeners[i]->Wait().reason, FinishReason::kLength);
    EXPECT_EQ(listeners[i]->ids(), Offline(requests[i])) << i;
  }
  const PreemptionStats stats = engine.load().preemption;
  EXPECT_GT(stats.recomputed + stats.swapped, 0);
  EXPECT_EQ(stats.swap_blocks_used, 0);
  if (options.swap_bytes > 0) {
    EXPECT_GT(stats.restored, 0);
    EXPECT_EQ(slow.beginnings, 4);  // nothing was read twice
  } else {
    EXPECT_GT(slow.beginnings, 4);
  }
}

TEST_P(EngineFamily, PreemptedSequencesEqualOffline) { PreemptSome({}); }

TEST_P(EngineFamily, SwappedSequencesEqualOffline) {
  PreemptSome({.swap_bytes = 64 << 20, .preemption = EngineOptions::Preemption::kSwap});
}

TEST_P(EngineFamily, BlocksBehindTheWindowAreGivenBack) {
  const auto model = Model(recurrent() ? 2 : 80);
  RecordingObserver observer;
  int64_t most = 0;
  {
    Engine engine(*model->model, tokenizer_, {.observer = &observer});
    const EngineRequest request = Request(1, 11, 250);
    auto listener = std::make_shared<RecordingListener>();
    listener->on_token = [&](const TokenEvent&) {
      most = std::max(most, engine.load().blocks_used);
    };
    ASSERT_TRUE(engine.Submit(request, listener).ok());
    listener->Wait();
    EXPECT_EQ(listener->ids(), Offline(request, 80));  // with a table that keeps everything
    EXPECT_TRUE(engine.Drain(10s));
    EXPECT_EQ(engine.load().blocks_used, 0);
  }
  const int64_t window = model->model->state_window();
  const int64_t whole = (11 + 250 + kBlockTokens - 1) / kBlockTokens;
  if (window == 0) {
    EXPECT_GE(most, recurrent() ? 1 : whole - 1);
  } else {
    EXPECT_GE(most, window / kBlockTokens);
    EXPECT_LE(most, window / kBlockTokens + 2);
    EXPECT_LT(most, whole / 2);
  }
}

TEST_P(EngineFamily, CancellationFreesTheStateForOthers) {
  const auto model = Model(recurrent() ? 1 : 40);
  SlowModel slow(*model->model);
  Engine engine(slow, tokenizer_, {.max_batch = 1});
  EngineRequest endless = Request(1, 5, 100);
  endless.request_id = "endless";
  auto cancelled = std::make_shared<RecordingListener>();
  ASSERT_TRUE(engine.Submit(endless, cancelled).ok());
  ASSERT_TRUE(cancelled->WaitForTokens(3));
  auto listener = std::make_shared<RecordingListener>();
  const EngineRequest request = Request(2, 9, 8);
  ASSERT_TRUE(engine.Submit(request, listener).ok());
  EXPECT_TRUE(engine.Cancel("endless"));
  EXPECT_EQ(cancelled->Wait().reason, FinishReason::kCancelled);
  listener->Wait();
  EXPECT_EQ(listener->ids(), Offline(request));  // whatever the state it got held before
  EXPECT_TRUE(engine.Drain(10s));
  EXPECT_EQ(engine.load().blocks_used, 0);
}

INSTANTIATE_TEST_SUITE_P(Tiny, EngineFamily,
                         ::testing::Values("qwen3-1", "mistral-1", "mixtral-1", "gpt_neox-1",
                                           "starcoder2-1", "gemma3-1", "mamba-1", "mamba2-1"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace lift
