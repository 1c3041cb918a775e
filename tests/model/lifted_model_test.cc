// The lifted graph: what it computes, and that a token does not depend on batch, chunking or
// threads.
#include <gtest/gtest.h>

#include "kernels/format/rotation.h"
#include "tests/model/random_model.h"
#include "tests/model/runner.h"

namespace lift {
namespace {

using testing::MaxDifference;
using testing::RandomModel;
using testing::RandomModelOptions;
using testing::TestModel;

std::vector<int32_t> RandomTokens(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> tokens(count);
  for (int32_t& token : tokens) token = static_cast<int32_t>(random() % 97);
  return tokens;
}

// What `variant` stores for one row, decoded from the bits by the definition in lifted_file.h, in
// the model's own basis.
std::vector<float> DecodeRow(const LiftedMatrix& matrix, int64_t row, int variant) {
  const int64_t n = PaddedColumns(matrix.cols);
  std::vector<double> sum(static_cast<size_t>(n), 0.0);
  for (size_t j = 0; j < matrix.stages.size(); ++j) {
    if (row >= matrix.rows_of(variant)[j]) continue;
    const LiftedMatrix::Stage& stage = matrix.stages[j];
    const LiftCode& code = *stage.code;
    const auto bit = [&](int64_t t, int r) -> int {
      t = ((t % n) + n) % n;
      const int64_t tile =
          (row / kTileRows * (n / kTileColumns) + t / kTileColumns) * code.stored + r;
      uint32_t word = 0;
      std::memcpy(&word, stage.planes + tile * kTileBytes + row % kTileRows * 4, 4);
      return static_cast<int>(word >> (t % kTileColumns) & 1);
    };
    const auto sign = [&](int64_t t, int r) -> double {
      int value = 0;
      if (r < code.stored) {
        value = bit(t, r);
      } else {
        for (int b = 0; b < 64; ++b) {
          if (code.masks[static_cast<size_t>(r - code.stored)] >> b & 1)
            value ^= bit(t - b / code.streams(), b % code.streams());
        }
      }
      return value ? 1 : -1;
    };
    for (int64_t t = 0; t < n; ++t) {
      for (int m = 0; m < code.steps; ++m) {
        for (int r = 0; r < code.streams(); ++r) {
          sum[static_cast<size_t>(t)] +=
              static_cast<double>(stage.gain) *
              static_cast<double>(code.taps[static_cast<size_t>(m * code.streams() + r)]) *
              sign(t - m, r);
        }
      }
    }
  }
  std::vector<float> values(static_cast<size_t>(matrix.cols)), scratch(values.size());
  for (size_t t = 0; t < values.size(); ++t)
    values[t] =
        static_cast<float>(sum[t] * static_cast<double>(HalfToFloat(matrix.row_scale[row])));
  matrix.rotation->ApplyTranspose(values.data(), scratch.data());
  return values;
}

RandomModelOptions OptionsOf(const std::string& kind) {
  RandomModelOptions options;
  options.config = kind == "tied"     ? testing::TinyConfig(true)
                   : kind == "untied" ? testing::TinyConfig(false)
                                      : testing::FamilyConfig(kind);
  return options;
}

class LiftedModel : public ::testing::TestWithParam<std::string> {};

// Every variant's logits equal those of dense weights decoded from the same bits, up to the
// quantization of activations.
TEST_P(LiftedModel, EqualsDenseWeightsDecodedFromItsBits) {
  RandomModelOptions options = OptionsOf(GetParam());
  options.strips = GetParam() == "tied";
  options.wide_stages = 3;
  const auto weights = RandomModel::Load(options);
  ASSERT_NE(weights, nullptr);
  TestModel model(weights);
  ASSERT_TRUE(model.status.ok()) << model.status;
  const std::vector<int32_t> tokens = RandomTokens(20, 1);
  for (int variant = 0; variant < 3; ++variant) {
    const std::vector<float> lifted = model.Logits(tokens, tokens.size(), variant);
    std::vector<std::vector<float>> dense;
    for (const auto& spec : layout::Matrices(weights->config())) {
      std::vector<float>& values = dense.emplace_back();
      const Matrix& matrix = **weights->GetMatrix(spec.name);
      for (int64_t r = 0; r < spec.rows; ++r) {
        const auto [strip, strip_row] = matrix.StripOf(r);
        const std::vector<float> row = DecodeRow(*strip, strip_row, variant);
        values.insert(values.end(), row.begin(), row.end());
      }
      weights->OverrideDense(spec.name, values.data());
    }
    const std::vector<float> expected = model.Logits(tokens, tokens.size(), variant);
    for (const auto& spec : layout::Matrices(weights->config()))
      weights->OverrideDense(spec.name, nullptr);
    double power = 0, error = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
      power += static_cast<double>(expected[i]) * static_cast<double>(expected[i]);
      error += std::pow(static_cast<double>(lifted[i]) - static_cast<double>(expected[i]), 2);
    }
    // 15-bit activations in the finest variant, 8-bit ones in the others, where a token between two
    // experts may choose the other one.
    const double coarse = weights->config().num_experts > 0 ? 0.2 : 5e-2;
    EXPECT_TRUE(std::sqrt(error / power) <= (variant == 2 ? 1e-3 : coarse))
        << variant << ": " << std::sqrt(error / power);
    EXPECT_GT(power, 0);
  }
}

TEST(LiftedModelFull, EqualsTheSourceTensors) {
  RandomModelOptions options;
  options.strips = true;  // their sources, end to end, are one matrix
  const auto weights = RandomModel::Load(options);
  ASSERT_NE(weights, nullptr);
  TestModel model(weights);
  const std::vector<int32_t> tokens = RandomTokens(12, 2);
  const std::vector<float> full = model.Logits(tokens, 12, 3);
  std::vector<std::vector<float>> dense;
  for (const auto& spec : layout::Matrices(weights->config())) {
    std::vector<float>& values = dense.emplace_back(static_cast<size_t>(spec.rows * spec.cols));
    Dequantize(DType::kF16, (*weights->GetMatrix(spec.name))->dense->data, values);
    weights->OverrideDense(spec.name, values.data());
  }
  EXPECT_EQ(full, model.Logits(tokens, 12, 0));  // overridden: every variant is dense
}

// Eight sequences at mixed variants, prompts of unequal lengths, then decoding side by side.
struct Batch {
  static constexpr int kSequences = 8;
  std::vector<std::vector<int32_t>> prompts, replies;
  Batch() {
    for (uint32_t s = 0; s < kSequences; ++s) {
      prompts.push_back(RandomTokens(3 + 5 * s, s));
      replies.push_back(RandomTokens(6, 100 + s));
    }
  }
  static int Variant(int s) { return (s * 3 + 1) % 4; }
};

// logits[s]: of every token of sequence s, the prompts read as such or as an answer's tokens.
std::vector<std::vector<float>> RunTogether(TestModel& model, const Batch& batch, bool prefill) {
  std::vector<std::vector<float>> all(Batch::kSequences);
  std::vector<std::vector<int32_t>> blocks;
  for (int s = 0; s < Batch::kSequences; ++s) blocks.push_back(model.Blocks(s, Batch::kSequences));
  const auto vocab = model.model->vocab_size();
  for (size_t step = 0; step < 7; ++step) {
    std::vector<SequenceChunk> chunks;
    for (size_t s = 0; s < Batch::kSequences; ++s) {
      const auto& prompt = batch.prompts[s];
      SequenceChunk chunk{prompt,
                          0,
                          blocks[s],
                          Batch::Variant(static_cast<int>(s)),
                          SequenceChunk::Logits::kAll,
                          prefill && step == 0};
      if (step > 0) {
        chunk.tokens = std::span(batch.replies[s]).subspan(step - 1, 1);
        chunk.position = static_cast<int64_t>(prompt.size() + step - 1);
      }
      chunks.push_back(chunk);
    }
    std::vector<float> logits;
    model.model->Step(chunks, logits);
    auto at = logits.begin();
    for (size_t s = 0; s < Batch::kSequences; ++s) {
      const auto count = static_cast<std::ptrdiff_t>(chunks[s].tokens.size()) * vocab;
      all[s].insert(all[s].end(), at, at + count);
      at += count;
    }
    EXPECT_TRUE(at == logits.end());
  }
  return all;
}

TEST_P(LiftedModel, SameBitsAloneInAMixedBatchAndOnAnyThreads) {
  const auto weights = RandomModel::Load(OptionsOf(GetParam()));
  ASSERT_NE(weights, nullptr);
  Transformer::Options options;
  options.block_tokens = 4;
  options.num_blocks = 8 * 16;
  TestModel one(weights, 1, options), two(weights, 2, options);
  ASSERT_TRUE(one.status.ok()) << one.status;
  const Batch batch;
  for (const bool prefill : {false, true}) {
    const auto together = RunTogether(one, batch, prefill);
    EXPECT_EQ(together, RunTogether(two, batch, prefill));
    for (int s = 0; s < Batch::kSequences; ++s) {
      std::vector<int32_t> tokens = batch.prompts[static_cast<size_t>(s)];
      const size_t prompt = prefill ? tokens.size() : 0;
      const auto& reply = batch.replies[static_cast<size_t>(s)];
      tokens.insert(tokens.end(), reply.begin(), reply.end());
      for (size_t chunk : {size_t{1}, size_t{7}, tokens.size()}) {
        EXPECT_EQ(together[static_cast<size_t>(s)],
                  two.Logits(tokens, chunk, Batch::Variant(s), prompt))
            << "sequence " << s << " in chunks of " << chunk << (prefill ? ", prefill" : "");
      }
    }
  }
}

#if !defined(LIFT_TEST_CUDA)
// Two roundings of one matrix: near each other, and not the same.
TEST_P(LiftedModel, PromptsAreReadWithOtherRoundings) {
  const auto weights = RandomModel::Load(OptionsOf(GetParam()));
  ASSERT_NE(weights, nullptr);
  TestModel model(weights);
  const std::vector<int32_t> tokens = RandomTokens(12, 8);
  for (const int variant : {0, 2}) {
    const auto answer = model.Logits(tokens, 12, variant);
    const auto prompt = model.Logits(tokens, 12, variant, 12);
    EXPECT_NE(answer, prompt);
    const double largest = MaxDifference(answer, std::vector<float>(answer.size()));
    EXPECT_LE(MaxDifference(answer, prompt), 0.1 * largest) << "variant " << variant;
  }
  EXPECT_EQ(model.Logits(tokens, 12, 3), model.Logits(tokens, 12, 3, 12));  // full precision
}

#endif  // LIFT_TEST_CUDA

// A look gives what its variant makes of a token on the state that the others wrote, and leaves
// that state alone.
TEST_P(LiftedModel, ALookChangesNothing) {
  const auto weights = RandomModel::Load(OptionsOf(GetParam()));
  ASSERT_NE(weights, nullptr);
  TestModel model(weights);
  const std::vector<int32_t> prompt = RandomTokens(12, 9), next = RandomTokens(1, 10);
  const std::vector<int32_t> blocks = model.Blocks(0, 1);
  const std::span<const int32_t> last = std::span(prompt).last(1);
  const SequenceChunk read{prompt, 0, blocks, 2, SequenceChunk::Logits::kLast, true},
      answer{next, 12, blocks, 0, SequenceChunk::Logits::kLast};
  SequenceChunk look{last, 11, blocks, 0, SequenceChunk::Logits::kLast};
  look.look = true;
  SequenceChunk same = look;
  same.variant = 2, same.prefill = true;
  std::vector<float> alone, after, with_looks, after_looks, later;
  model.model->Step({&read, 1}, alone);
  model.model->Step({&answer, 1}, after);
  const SequenceChunk step[] = {read, look, same};
  model.model->Step(step, with_looks);
  model.model->Step({&look, 1}, later);  // the state is there
  model.model->Step({&answer, 1}, after_looks);
  const size_t vocab = alone.size();
  const std::span<const float> rows = with_looks;
  EXPECT_EQ(std::vector(rows.begin(), rows.begin() + static_cast<std::ptrdiff_t>(vocab)), alone);
  EXPECT_EQ(std::vector(rows.end() - static_cast<std::ptrdiff_t>(vocab), rows.end()), alone);
  EXPECT_EQ(later, std::vector(rows.begin() + static_cast<std::ptrdiff_t>(vocab),
                               rows.begin() + static_cast<std::ptrdiff_t>(2 * vocab)));
  EXPECT_NE(later, alone);
  EXPECT_EQ(after_looks, after);
}

INSTANTIATE_TEST_SUITE_P(Families, LiftedModel,
                         ::testing::Values("tied", "untied", "qwen2", "qwen3", "mistral", "mixtral",
                                           "gpt_neox", "gemma3_text"),
                         [](const auto& info) { return info.param; });

#if !defined(LIFT_TEST_CUDA)
TEST(LiftedModelBatch, EveryInstructionSetGivesTheSameSignProducts) {
  // Activations differ in the last bits of float between instruction sets at most; the integer part
  // must not.
  const auto weights = RandomModel::Load();
  ASSERT_NE(weights, nullptr);
  const std::vector<int32_t> tokens = RandomTokens(10, 5);
  TestModel best(weights);
  ThreadPool pool(1);
  auto portable = MakeCpuBackend(pool, CpuIsa::kPortable);
  auto model = Transformer::Create(weights, *portable, {});
  ASSERT_TRUE(model.ok());
  const std::vector<int32_t> blocks = best.Blocks(0, 1);
  const SequenceChunk chunk{tokens, 0, blocks, 2, SequenceChunk::Logits::kAll};
  std::vector<float> logits;
  (*model)->Step({&chunk, 1}, logits);
  EXPECT_LE(MaxDifference(logits, best.Logits(tokens, tokens.size(), 2)), 1e-3);
}

#endif  // LIFT_TEST_CUDA

TEST(LiftedModelStep, ReportsWhatItReadAndKeeps) {
  const auto weights = RandomModel::Load();
  ASSERT_NE(weights, nullptr);
  Transformer::Options options;
  options.block_tokens = 4;
  options.num_blocks = 8;
  TestModel model(weights, 1, options);
  const std::vector<int32_t> tokens = {1, 2}, b0 = {0}, b1 = {1}, b2 = {2};
  const SequenceChunk low{tokens, 0, b0, 0, {}}, high{tokens, 0, b1, 2, {}},
      full{tokens, 0, b2, 3, {}};
  std::vector<float> logits;
  EXPECT_EQ(model.model->Step(std::vector{low}, logits).weight_bytes_read,
            weights->VariantBytes(0));
  EXPECT_EQ(model.model->Step(std::vector{high, low}, logits).weight_bytes_read,
            weights->VariantBytes(2));
  EXPECT_EQ(model.model->Step(std::vector{low, full}, logits).weight_bytes_read,
            weights->VariantBytes(0) + weights->VariantBytes(3));
  EXPECT_EQ(model.model->bytes_per_block(),
            2 * 2 * 2 * 4 * 12 * 4);  // layers, k and v, heads, tokens, head_dim, bytes
  EXPECT_EQ(model.model->state_bytes(), 8u * static_cast<uint64_t>(model.model->bytes_per_block()));
  EXPECT_GT(model.model->workspace_bytes(), 0u);
}

struct Recorder : ActivationObserver {
  std::vector<std::tuple<std::string, int64_t, int64_t>> seen;
  void OnInput(const std::string& site, const float* x, int64_t tokens, int64_t dim) override {
    ASSERT_NE(x, nullptr);
    seen.emplace_back(site, tokens, dim);
  }
};

TEST(LiftedModelPieces, GiveWhatStepGivesAndAreObserved) {
  const auto weights = RandomModel::Load();
  ASSERT_NE(weights, nullptr);
  TestModel model(weights);
  const std::vector<int32_t> tokens = RandomTokens(9, 3), blocks = model.Blocks(0, 1);
  const SequenceChunk chunk{tokens, 0, blocks, 1, SequenceChunk::Logits::kAll};
  const std::vector<float> expected = model.Logits(tokens, 9, 1);
  Recorder recorder;
  model.model->set_observer(&recorder);
  std::vector<float> hidden, logits;
  model.model->Embed({&chunk, 1}, hidden);
  for (int64_t layer = 0; layer < 2; ++layer) model.model->RunLayer(layer, {&chunk, 1}, hidden);
  model.model->Head(hidden.data(), 9, std::vector<uint8_t>(9, 1), logits);
  EXPECT_EQ(logits, expected);
  ASSERT_EQ(recorder.seen.size(), 9u);
  EXPECT_EQ(recorder.seen[0], std::tuple("model.layers.0.self_attn.qkv", 9, 48));
  EXPECT_EQ(recorder.seen[3], std::tuple("model.layers.0.mlp.down_proj", 9, 80));
  EXPECT_EQ(recorder.seen[5], std::tuple("model.layers.1.self_attn.o_proj", 9, 48));
  EXPECT_EQ(recorder.seen[6], std::tuple("model.layers.1.mlp.gate_up", 9, 48));
  EXPECT_EQ(recorder.seen[8], std::tuple("lm_head", 9, 48));
}

TEST(LiftedModelCreate, RefusesPoolsThatCannotBe) {
  const auto weights = RandomModel::Load();
  ASSERT_NE(weights, nullptr);
  Transformer::Options options;
  options.block_tokens = 0;
  EXPECT_EQ(TestModel(weights, 1, options).status.code(), absl::StatusCode::kInvalidArgument);
  options.block_tokens = 16;
  options.num_blocks = int64_t{1} << 40;
  EXPECT_EQ(TestModel(weights, 1, options).status.code(), absl::StatusCode::kInvalidArgument);
  options.num_blocks = 0;
  EXPECT_EQ(TestModel(weights, 1, options).model->num_blocks(), 256 / 16);
}

}  // namespace
}  // namespace lift
