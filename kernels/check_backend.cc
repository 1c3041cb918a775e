// Is what a device computes what the CPU computes? Small cases of the ops that a wrong driver, a
// wrong build or a broken card would show in.
#include <cmath>
#include <random>
#include <span>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/float16.h"
#include "kernels/devices.h"
#include "kernels/format/parity_masks.h"

namespace lift {
namespace {

std::vector<float> Floats(int64_t count, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(random);
  return values;
}

absl::Status Compare(const char* op, std::span<const float> got, std::span<const float> want,
                     double tolerance) {
  for (size_t i = 0; i < want.size(); ++i) {
    const double error = std::abs(static_cast<double>(got[i]) - static_cast<double>(want[i]));
    if (error <= tolerance * (1 + std::abs(static_cast<double>(want[i])))) continue;
    return absl::InternalError(
        absl::StrCat("the device computes ", op, " wrongly: ", got[i], " instead of ", want[i]));
  }
  return absl::OkStatus();
}

constexpr double kRounding = 1e-4;

absl::Status CheckNorm(Backend& device, Backend& cpu) {
  constexpr int64_t kTokens = 3, kDim = 777;
  const std::vector<float> x = Floats(kTokens * kDim, 1), gain = Floats(kDim, 2);
  std::vector<float> got(x.size()), want(x.size());
  device.RmsNorm(x.data(), gain.data(), 1e-5f, kTokens, kDim, got.data());
  cpu.RmsNorm(x.data(), gain.data(), 1e-5f, kTokens, kDim, want.data());
  return Compare("a norm", got, want, kRounding);
}

// Two stages, derived signs, 15-bit and 8-bit tokens, rows that only some of them read.
absl::Status CheckLifted(Backend& device, Backend& cpu) {
  constexpr int64_t kRows = 200, kCols = 480;
  std::mt19937_64 random(3);
  LiftCode codes[2];
  for (int c = 0; c < 2; ++c) {
    codes[c].stored = 2 - c, codes[c].derived = 1, codes[c].steps = 8;
    codes[c].masks = {kParityMasks[codes[c].stored]};
    codes[c].taps = Floats(8 * codes[c].streams(), 4 + static_cast<uint64_t>(c));
  }
  const Rotation rotation({true, 5}, kCols);
  LiftedMatrix matrix;
  matrix.rows = kRows, matrix.cols = kCols, matrix.rotation = &rotation;
  std::vector<uint16_t> scales(kRows, FloatToHalf(0.5f));
  matrix.row_scale = scales.data();
  std::vector<std::vector<uint64_t>> planes(2);
  for (int c = 0; c < 2; ++c) {
    planes[c].resize(static_cast<size_t>(PaddedRows(kRows) / kTileRows * PaddedColumns(kCols) /
                                         kTileColumns * codes[c].stored * kTileBytes / 8));
    for (uint64_t& word : planes[c]) word = random();
    matrix.stages.push_back(
        {&codes[c], c, 1.0f / static_cast<float>(1 + c),
         reinterpret_cast<const std::byte*>(planes[static_cast<size_t>(c)].data())});
  }
  matrix.stage_rows = {kRows, 48, kRows, kRows};
  const LiftSite site{kCols, &rotation, {&codes[0], &codes[1]}, {0, 0, 1, 1}, {1, 1, 1, 1}};
  const std::vector<uint8_t> variants = {0, 1, 1, 0, 0};
  const auto tokens = static_cast<int64_t>(variants.size());
  const std::vector<float> x = Floats(tokens * kCols, 6);
  std::vector<float> results[2];
  Backend* backends[] = {&device, &cpu};
  for (int i = 0; i < 2; ++i) {
    results[i].resize(static_cast<size_t>(tokens * kRows));
    const auto u = backends[i]->MakeLiftedActivations();
    backends[i]->Lift(site, x.data(), tokens, variants, *u);
    backends[i]->LiftedMatmul(matrix, *u, variants, results[i].data());
  }
  return Compare("a lifted layer", results[0], results[1], kRounding);
}

absl::Status CheckAttention(Backend& device, Backend& cpu) {
  const AttentionShape shape{8, 2, 64, 16, 0.125f, 0, KvFormat::kF16};
  constexpr int64_t kTokens = 37;
  const std::vector<int32_t> blocks = {2, 0, 1};
  const AttentionSequence whole{0, kTokens, 0, blocks};
  const std::vector<float> q = Floats(kTokens * shape.heads * shape.head_dim, 7),
                           k = Floats(kTokens * shape.kv_heads * shape.head_dim, 8),
                           v = Floats(kTokens * shape.kv_heads * shape.head_dim, 9);
  std::vector<float> results[2];
  Backend* backends[] = {&device, &cpu};
  for (int i = 0; i < 2; ++i) {
    std::vector<std::byte> cache(static_cast<size_t>(3 * shape.block_bytes()));
    results[i].resize(q.size());
    backends[i]->WriteKv(cache.data(), shape, {&whole, 1}, k.data(), v.data());
    backends[i]->Attention(cache.data(), shape, {&whole, 1}, q.data(), results[i].data());
  }
  return Compare("attention", results[0], results[1], kRounding);
}

}  // namespace

absl::Status CheckBackend(Backend& backend) {
  ThreadPool pool(1);
  const auto cpu = MakeCpuBackend(pool);
  LIFT_RETURN_IF_ERROR(CheckNorm(backend, *cpu));
  LIFT_RETURN_IF_ERROR(CheckLifted(backend, *cpu));
  return CheckAttention(backend, *cpu);
}

}  // namespace lift
