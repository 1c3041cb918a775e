// Mamba's convolution and scan: against oracles, cut into steps, in batches, on every instruction
// set.
#include <gtest/gtest.h>

#include "kernels/reference/reference.h"
#include "tests/kernels/kernel_tables.h"
#include "tests/kernels/random_lifted.h"

namespace lift {
namespace {

using reference::Mismatch;

// One layer's inputs for two sequences of unequal length, rows interleaved by `lead` unused ones.
struct ScanCase {
  ScanLayer layer;
  std::vector<float> a, d, bias, x, dt, b, c;
  ScanInputs in;
  int64_t tokens;
  ScanCase(int64_t heads, int64_t head_dim, int64_t states, int64_t groups, bool per_state,
           int64_t rows)
      : tokens(rows) {
    a = RandomFloats(per_state ? heads * states : heads, 1);
    for (float& v : a) v = -std::abs(v) - 0.01f;
    d = RandomFloats(heads, 2);
    bias = RandomFloats(heads, 3);
    in.x_pitch = heads * head_dim + 3, in.dt_pitch = heads + 1, in.bc_pitch = groups * states + 5;
    x = RandomFloats(rows * in.x_pitch, 4);
    dt = RandomFloats(rows * in.dt_pitch, 5, 3.0f);
    b = RandomFloats(rows * in.bc_pitch, 6);
    c = RandomFloats(rows * in.bc_pitch, 7);
    dt[0] = 30.0f;  // where softplus is the identity
    layer.heads = heads, layer.head_dim = head_dim, layer.states = states, layer.groups = groups;
    layer.a = a.data(), layer.a_per_state = per_state, layer.d = d.data();
    layer.dt_bias = per_state ? nullptr : bias.data();
    layer.dt_min = 0.02f, layer.dt_max = 2.5f;
    layer.state_pitch = heads * head_dim * states + 7;
    in.x = x.data(), in.dt = dt.data(), in.b = b.data(), in.c = c.data();
  }
  std::vector<float> Run(Backend& backend, const std::vector<std::vector<RecurrentSequence>>& steps,
                         std::vector<float>* states_out = nullptr) const {
    std::vector<float> states(static_cast<size_t>(4 * layer.state_pitch), 99.0f);
    std::vector<float> out(static_cast<size_t>(tokens * layer.heads * layer.head_dim));
    for (const auto& step : steps)
      backend.SelectiveScan(layer, step, states.data(), in, out.data());
    if (states_out) *states_out = states;
    return out;
  }
};

class RecurrentKernels : public testing::TestWithParam<const cpu::Kernels*> {
 protected:
  ThreadPool pool_{2}, one_{1};
  std::unique_ptr<Backend> backend_ = cpu::MakeCpuBackendOn(pool_, *GetParam());
  std::unique_ptr<Backend> portable_ = cpu::MakeCpuBackendOn(one_, cpu::PortableKernels());
};

TEST_P(RecurrentKernels, ScanMatchesOracleAndIsTheSameBitsEverywhere) {
  const ScanCase cases[] = {{111, 1, 7, 1, true, 37},
                            {40, 1, 16, 1, true, 9},
                            {6, 12, 33, 3, false, 37},
                            {5, 24, 128, 1, false, 20}};
  for (const ScanCase& one : cases) {
    const auto want = reference::SelectiveScan(one.layer, one.in, one.tokens);
    const std::vector<std::vector<RecurrentSequence>> whole = {{{0, one.tokens, -1, 2}}};
    const std::vector<float> got = one.Run(*backend_, whole);
    EXPECT_EQ(Mismatch(got, want), "") << one.layer.states;
    EXPECT_EQ(got, one.Run(*portable_, whole)) << one.layer.states;
  }
}

TEST_P(RecurrentKernels, ScanInStepsAndBlocksIsTheSameBits) {
  const ScanCase one(6, 12, 33, 3, false, 37);
  std::vector<float> states, other;
  const std::vector<float> whole = one.Run(*backend_, {{{0, 37, -1, 2}}}, &states);
  // From block to block, and in place.
  EXPECT_EQ(whole, one.Run(*backend_, {{{0, 5, -1, 0}}, {{5, 1, 0, 3}}, {{6, 31, 3, 3}}}, &other));
  const auto size = static_cast<size_t>(one.layer.heads * one.layer.head_dim * one.layer.states);
  const auto pitch = static_cast<size_t>(one.layer.state_pitch);
  for (size_t i = 0; i < size; ++i) ASSERT_EQ(states[2 * pitch + i], other[3 * pitch + i]);
  for (size_t i = pitch; i < 2 * pitch; ++i) ASSERT_EQ(other[i], 99.0f);  // nobody's block
  EXPECT_EQ(other[3 * pitch + size], 99.0f);
  // Two sequences side by side, each as if alone.
  const std::vector<float> both = one.Run(*backend_, {{{0, 20, -1, 1}, {20, 17, -1, 0}}});
  const std::vector<float> first = one.Run(*backend_, {{{0, 20, -1, 1}}}),
                           second = one.Run(*backend_, {{{20, 17, -1, 3}}});
  for (size_t i = 0; i < both.size(); ++i)
    ASSERT_EQ(both[i], i < 20 * 72 ? first[i] : second[i]) << i;
}

TEST_P(RecurrentKernels, ConvolutionMatchesOracleHoweverItIsCut) {
  for (const int64_t kernel : {1, 2, 4}) {
    for (const int64_t channels : {1, 17, 111}) {
      const int64_t pitch = channels + 2, tokens = 11;
      const std::vector<float> x = RandomFloats(tokens * pitch, 1),
                               bias = RandomFloats(channels, 2),
                               weight = RandomFloats(kernel * channels, 3);
      const ConvLayer layer{channels, kernel, weight.data(), bias.data(), kernel * channels};
      const auto want = reference::CausalConv(layer, x, pitch, tokens);
      std::vector<float> states(static_cast<size_t>(3 * layer.state_pitch), 99.0f);
      std::vector<float> whole(want.values.size()), cut(whole), portable(whole);
      const auto run = [&](Backend& backend, RecurrentSequence s, std::vector<float>& out) {
        backend.CausalConv(layer, {&s, 1}, states.data(), x.data(), pitch, out.data());
      };
      run(*backend_, {0, tokens, -1, 0}, whole);
      EXPECT_EQ(Mismatch(whole, want), "") << kernel << " " << channels;
      run(*portable_, {0, tokens, -1, 0}, portable);
      EXPECT_EQ(whole, portable);
      run(*backend_, {0, 1, -1, 1}, cut);
      run(*backend_, {1, 2, 1, 2}, cut);
      run(*backend_, {3, 1, 2, 2}, cut);
      run(*backend_, {4, 7, 2, 2}, cut);
      EXPECT_EQ(whole, cut);
    }
  }
}

TEST_P(RecurrentKernels, ColumnsAreCopied) {
  const std::vector<float> x = {1, 2, 3, 4, 5, 6};
  std::vector<float> out(4);
  backend_->CopyColumns(x.data(), 2, 3, 2, out.data());
  EXPECT_EQ(out, (std::vector<float>{1, 2, 4, 5}));
}

INSTANTIATE_TEST_SUITE_P(EveryIsa, RecurrentKernels, testing::ValuesIn(AllTables()),
                         [](const auto& info) { return TableName(info.param); });

}  // namespace
}  // namespace lift
