// Mamba's convolution and scan on the GPU, or emulated: against oracles, cut into steps, in
// batches.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "kernels/cuda/recurrent.h"
#include "kernels/reference/reference.h"
#include "tests/kernels/cuda_device.h"
#include "tests/kernels/on_device.h"
#include "tests/kernels/random_lifted.h"

namespace lift::cuda {
namespace {

using reference::Mismatch;
using Steps = std::vector<std::vector<RecurrentSequence>>;

// Equal to the bit; NaN would be equal to itself.
bool Same(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), sizeof(float) * a.size()) == 0;
}

struct Result {
  std::vector<float> out, states;
};

// One layer and its inputs, of pitches larger than the rows.
struct ScanCase {
  ScanLayer layer;
  ScanInputs in;
  std::vector<float> a, d, bias, x, dt, b, c;
  int64_t tokens;
  ScanCase(int64_t heads, int64_t head_dim, int64_t states, int64_t groups, bool per_state,
           int64_t rows)
      : tokens(rows) {
    a = RandomFloats(per_state ? heads * states : heads, 1);
    for (float& v : a) v = -std::abs(v) - 0.01f;
    d = RandomFloats(heads, 2), bias = RandomFloats(heads, 3);
    in.x_pitch = heads * head_dim + 3, in.dt_pitch = heads + 1, in.bc_pitch = groups * states + 5;
    x = RandomFloats(rows * in.x_pitch, 4), dt = RandomFloats(rows * in.dt_pitch, 5, 3.0f);
    b = RandomFloats(rows * in.bc_pitch, 6), c = RandomFloats(rows * in.bc_pitch, 7);
    dt[0] = 30.0f;  // where softplus is the identity
    layer.heads = heads, layer.head_dim = head_dim, layer.states = states, layer.groups = groups;
    layer.a = a.data(), layer.a_per_state = per_state, layer.d = d.data();
    layer.dt_bias = per_state ? nullptr : bias.data();
    layer.dt_min = 0.02f, layer.dt_max = 2.5f;
    // Aligned where states are, so that some cases move vectors and others do not.
    layer.state_pitch = size() + (states % 4 == 0 ? 8 : 7);
    in.x = x.data(), in.dt = dt.data(), in.b = b.data(), in.c = c.data();
  }
  int64_t size() const { return layer.heads * layer.head_dim * layer.states; }

  // Of four blocks of 99s.
  Result Run(const Steps& steps) const {
    CommandQueue queue;
    const OnDevice da(queue, a), dd(queue, d), dbias(queue, bias), dx(queue, x), ddt(queue, dt),
        db(queue, b), dc(queue, c);
    const OnDevice states(queue,
                          std::vector<float>(static_cast<size_t>(4 * layer.state_pitch), 99.0f));
    const OnDevice out(
        queue, std::vector<float>(static_cast<size_t>(tokens * layer.heads * layer.head_dim)));
    ScanLayer there = layer;
    there.a = da.get(), there.d = dd.get();
    if (layer.dt_bias != nullptr) there.dt_bias = dbias.get();
    ScanInputs inputs = in;
    inputs.x = dx.get(), inputs.dt = ddt.get(), inputs.b = db.get(), inputs.c = dc.get();
    for (const auto& step : steps)
      QueueSelectiveScan(queue, there, step, states.get(), inputs, out.get());
    return {out.Read(), states.Read()};
  }
};

TEST(CudaScan, MatchesOracle) {
  const ScanCase cases[] = {
      {111, 1, 7, 1, true, 37},  {40, 1, 16, 1, true, 19},   {12, 1, 33, 2, true, 5},
      {5, 1, 100, 1, true, 18},  {3, 1, 200, 1, true, 9},    {2, 1, 300, 1, true, 9},
      {6, 12, 33, 3, false, 37}, {5, 24, 128, 1, false, 20}, {4, 9, 16, 2, false, 17},
      {2, 20, 64, 1, false, 16}, {2, 5, 256, 2, false, 9},   {2, 3, 260, 1, false, 7},
      {2, 3, 517, 2, false, 7},  {3, 1, 600, 1, true, 5},    {1, 1, 1, 1, true, 1},
  };
  for (const ScanCase& one : cases) {
    const auto want = reference::SelectiveScan(one.layer, one.in, one.tokens);
    InEveryOrder([&] {
      const Result got = one.Run({{{0, one.tokens, -1, 2}}});
      EXPECT_EQ(Mismatch(got.out, want), "") << one.layer.states << " " << one.layer.a_per_state;
    });
  }
}

void ExpectSameInSteps(const ScanCase& one) {
  const int64_t n = one.tokens, half = n / 2;
  const auto size = static_cast<size_t>(one.size());
  const auto pitch = static_cast<size_t>(one.layer.state_pitch);
  const Result whole = one.Run({{{0, n, -1, 2}}});
  // From block to block, and in place.
  const Result cut = one.Run({{{0, 5, -1, 0}}, {{5, 1, 0, 3}}, {{6, n - 6, 3, 3}}});
  EXPECT_TRUE(Same(whole.out, cut.out)) << one.layer.states;
  const float* kept = whole.states.data() + 2 * pitch;
  const float* other = cut.states.data() + 3 * pitch;
  EXPECT_EQ(std::memcmp(kept, other, sizeof(float) * size), 0) << one.layer.states;
  for (size_t i = pitch; i < 2 * pitch; ++i) ASSERT_EQ(cut.states[i], 99.0f);  // nobody's block
  for (size_t i = size; i < pitch; ++i) ASSERT_EQ(other[i], 99.0f);
  // Two sequences side by side, each as if alone.
  const Result both = one.Run({{{0, half, -1, 1}, {half, n - half, -1, 0}}});
  const Result first = one.Run({{{0, half, -1, 1}}}), second = one.Run({{{half, n - half, -1, 3}}});
  const auto split = static_cast<size_t>(half * one.layer.heads * one.layer.head_dim);
  for (size_t i = 0; i < both.out.size(); ++i)
    ASSERT_EQ(both.out[i], i < split ? first.out[i] : second.out[i]) << i;
}

TEST(CudaScan, IsTheSameBitsInStepsBlocksAndBatches) {
  const ScanCase cases[] = {{6, 12, 33, 3, false, 37}, {3, 10, 128, 1, false, 37},
                            {37, 1, 16, 1, true, 37},  {9, 1, 7, 3, true, 23},
                            {2, 3, 256, 1, false, 23}, {2, 2, 515, 2, false, 11}};
  for (const ScanCase& one : cases) InEveryOrder([&] { ExpectSameInSteps(one); });
}

struct ConvCase {
  ConvLayer layer;
  int64_t pitch, tokens;
  std::vector<float> x, bias, weight;
  ConvCase(int64_t channels, int64_t kernel, int64_t rows) : pitch(channels + 2), tokens(rows) {
    x = RandomFloats(tokens * pitch, 1), bias = RandomFloats(channels, 2);
    weight = RandomFloats(kernel * channels, 3);
    layer = {channels, kernel, weight.data(), bias.data(), kernel * channels};
  }
  int64_t size() const { return (layer.kernel - 1) * layer.channels; }

  // Of four blocks of 99s.
  Result Run(const Steps& steps) const {
    CommandQueue queue;
    const OnDevice dx(queue, x), dbias(queue, bias), dweight(queue, weight);
    const OnDevice states(queue,
                          std::vector<float>(static_cast<size_t>(4 * layer.state_pitch), 99.0f));
    const OnDevice out(queue, std::vector<float>(static_cast<size_t>(tokens * layer.channels)));
    ConvLayer there = layer;
    there.weight = dweight.get(), there.bias = dbias.get();
    for (const auto& step : steps)
      QueueCausalConv(queue, there, step, states.get(), dx.get(), pitch, out.get());
    return {out.Read(), states.Read()};
  }
};

void ExpectConvolution(const ConvCase& one) {
  const int64_t n = one.tokens, kernel = one.layer.kernel, channels = one.layer.channels;
  const Result whole = one.Run({{{0, n, -1, 0}}});
  EXPECT_EQ(Mismatch(whole.out, reference::CausalConv(one.layer, one.x, one.pitch, n)), "")
      << kernel << " " << channels;
  // The state is the last inputs, and zeros before the first.
  for (int64_t j = 0; j < kernel - 1; ++j) {
    for (int64_t c = 0; c < channels; ++c) {
      const int64_t t = n - (kernel - 1) + j;
      const float want = t < 0 ? 0.0f : one.x[static_cast<size_t>(t * one.pitch + c)];
      ASSERT_EQ(whole.states[static_cast<size_t>(j * channels + c)], want) << j << " " << c;
    }
  }
  const Result cut = one.Run({{{0, 1, -1, 1}}, {{1, 2, 1, 2}}, {{3, 1, 2, 2}}, {{4, n - 4, 2, 2}}});
  EXPECT_TRUE(Same(whole.out, cut.out)) << kernel << " " << channels;
  const auto size = static_cast<size_t>(one.size());
  const auto pitch = static_cast<size_t>(one.layer.state_pitch);
  for (size_t i = 0; i < pitch; ++i) {
    ASSERT_EQ(cut.states[2 * pitch + i], i < size ? whole.states[i] : 99.0f);
    ASSERT_EQ(cut.states[3 * pitch + i], 99.0f);
  }
  // One token at a time, in place.
  Steps single = {{{0, 1, -1, 3}}};
  for (int64_t t = 1; t < n; ++t) single.push_back({{t, 1, 3, 3}});
  EXPECT_TRUE(Same(whole.out, one.Run(single).out)) << kernel << " " << channels;
  // Two sequences side by side, each as if alone.
  const Result both = one.Run({{{0, 5, -1, 1}, {5, n - 5, -1, 0}}});
  const Result first = one.Run({{{0, 5, -1, 1}}}), second = one.Run({{{5, n - 5, -1, 3}}});
  for (size_t i = 0; i < both.out.size(); ++i)
    ASSERT_EQ(both.out[i], i < static_cast<size_t>(5 * channels) ? first.out[i] : second.out[i]);
}

TEST(CudaConvolution, MatchesOracleHoweverItIsCut) {
  for (const int64_t kernel : {1, 2, 4, 20}) {
    for (const int64_t channels : {1, 17, 161}) {
      for (const int64_t tokens : {11, 70}) {
        const ConvCase one(channels, kernel, tokens);
        InEveryOrder([&] { ExpectConvolution(one); });
      }
    }
  }
}

TEST(CudaRecurrent, ALaterStepReplaysAnEarlierOne) {
  const ConvCase one(17, 4, 24);
  const Result whole = one.Run({{{0, 24, -1, 0}}});
  CommandQueue queue;
  const OnDevice x(queue, one.x), bias(queue, one.bias), weight(queue, one.weight);
  const OnDevice states(queue, std::vector<float>(static_cast<size_t>(4 * one.layer.state_pitch)));
  const OnDevice out(queue, whole.out);
  ConvLayer there = one.layer;
  there.weight = weight.get(), there.bias = bias.get();
  for (int64_t t = 0; t < 24; t += 4) {  // four commands are enough for a graph
    for (int64_t i = t; i < t + 4; ++i) {
      const RecurrentSequence s = {i, 1, i == 0 ? -1 : static_cast<int32_t>((i - 1) % 3),
                                   static_cast<int32_t>(i % 3)};
      QueueCausalConv(queue, there, {&s, 1}, states.get(), x.get(), one.pitch, out.get());
    }
    queue.Flush();
  }
  EXPECT_TRUE(Same(out.Read(), whole.out));
  EXPECT_EQ(queue.replays(), 5u);
}

}  // namespace
}  // namespace lift::cuda
