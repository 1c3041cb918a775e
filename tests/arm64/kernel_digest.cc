// Runs every operation of the CPU backend on fixed inputs and prints a digest of each result: two
// machines that print the same text compute the same bits. Inputs come from integers alone, since
// the C library's functions may differ between machines.
//
// usage: kernel_digest [ISA...]   (default: every table this CPU can run)
#include <cstdio>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "kernels/base/thread_pool.h"
#include "kernels/cpu/cpu_backend_impl.h"

namespace lift {
namespace {

// Uniform in [-scale, scale], exact in binary.
std::vector<float> Numbers(int64_t count, uint64_t seed, float scale = 1) {
  std::vector<float> out(static_cast<size_t>(count));
  for (float& value : out) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    value = (static_cast<float>(seed >> 40) * 0x1p-23f - 1) * scale;
  }
  return out;
}

uint64_t Digest(const void* data, size_t bytes) {  // FNV-1a
  uint64_t hash = 0xCBF29CE484222325u;
  for (size_t i = 0; i < bytes; ++i) {
    hash = (hash ^ static_cast<const uint8_t*>(data)[i]) * 0x100000001B3u;
  }
  return hash;
}

void Print(const char* what, const std::vector<float>& values) {
  std::printf("%-24s %016llx\n", what,
              static_cast<unsigned long long>(Digest(values.data(), 4 * values.size())));
}

void Dense(Backend& backend) {
  constexpr int64_t kRows = 3, kDim = 111;
  const std::vector<float> x = Numbers(kRows * kDim, 1, 3), gain = Numbers(kDim, 2),
                           bias = Numbers(kDim, 3);
  std::vector<float> out(x.size());
  backend.RmsNorm(x.data(), gain.data(), 1e-5f, kRows, kDim, out.data());
  Print("rms norm", out);
  backend.LayerNorm(x.data(), gain.data(), bias.data(), 1e-5f, kRows, kDim, out.data());
  Print("layer norm", out);
  backend.SwiGlu(x.data(), out.data(), kRows * kDim, out.data());
  Print("swiglu", out);
  for (const bool tanh_form : {false, true}) {
    out = x;
    backend.Gelu(out.data(), kRows * kDim, tanh_form);
    Print(tanh_form ? "gelu tanh" : "gelu", out);
  }
  backend.Multiply(out.data(), x.data(), kRows * kDim);
  Print("multiply", out);
  const std::vector<float> w = Numbers(70 * kDim, 4), cos_sin = Numbers(kRows * 24, 5);
  std::vector<float> y(kRows * 70);
  backend.DenseMatmul({DType::kF32, 70, kDim, reinterpret_cast<const std::byte*>(w.data())},
                      x.data(), kRows, y.data());
  Print("dense", y);
  std::vector<float> heads = Numbers(kRows * 2 * 24, 6);
  backend.Rope(heads.data(), kRows, 2, 24, 24, cos_sin.data(), false);
  Print("rope", heads);
}

void Attention(Backend& backend) {
  constexpr int64_t kPosition = 600, kTokens = 5;
  for (const KvFormat format : {KvFormat::kF32, KvFormat::kF16, KvFormat::kBF16, KvFormat::kInt8}) {
    const AttentionShape shape{4, 2, 24, 16, 0.2f, 0, format};
    const int64_t blocks = (kPosition + kTokens + 15) / 16, row = shape.kv_heads * shape.head_dim;
    std::vector<int32_t> table(static_cast<size_t>(blocks));
    std::iota(table.rbegin(), table.rend(), 0);
    std::vector<std::byte> cache(static_cast<size_t>(blocks * shape.block_bytes()));
    const auto k = Numbers((kPosition + kTokens) * row, 7, 2),
               v = Numbers((kPosition + kTokens) * row, 8, 2),
               q = Numbers(kTokens * shape.heads * shape.head_dim, 9, 2);
    const AttentionSequence all[1] = {{0, kPosition + kTokens, 0, table}};
    const AttentionSequence last[1] = {{0, kTokens, kPosition, table}};
    backend.WriteKv(cache.data(), shape, all, k.data(), v.data());
    std::vector<float> out(q.size());
    backend.Attention(cache.data(), shape, last, q.data(), out.data());
    Print((std::string("attention ") + std::string(KvFormatName(format))).c_str(), out);
  }
}

void Lifted(Backend& backend, int stored, int derived, int64_t tokens) {
  constexpr int64_t kRows = 37, kCols = 160;
  LiftCode code;
  code.stored = stored, code.derived = derived, code.steps = 6;
  code.taps = Numbers(int64_t{6} * code.streams(), 10);
  for (int d = 0; d < derived; ++d) {
    code.masks.push_back(uint64_t{1} << (d + 1) * code.streams() | 1u << d % stored);
  }
  const Rotation rotation({true, 3}, kCols);
  const std::vector<uint16_t> scales(kRows, 0x3555);
  struct alignas(64) Line {
    uint64_t words[8];
  };
  std::vector<Line> planes(
      static_cast<size_t>(PaddedRows(kRows) * PaddedColumns(kCols) / 512 * stored));
  uint64_t seed = 11;
  for (Line& line : planes) {
    for (uint64_t& word : line.words)
      word = seed = seed * 6364136223846793005u + 1442695040888963407u;
  }
  LiftSite site{kCols, &rotation, {&code}, {0, 1}, {1, 1}};
  LiftedMatrix w;
  w.rows = kRows, w.cols = kCols, w.row_scale = scales.data(), w.rotation = &rotation;
  w.stages.push_back({&code, 0, 0.7f, reinterpret_cast<const std::byte*>(planes.data())});
  w.stage_rows = {32, kRows};
  std::vector<uint8_t> variants(static_cast<size_t>(tokens));
  for (size_t t = 0; t < variants.size(); ++t) {
    variants[t] = static_cast<uint8_t>((t % 3 == 1 ? 1 : 0) | (t % 2 == 1 ? kPrefillRow : 0));
  }
  const std::vector<float> x = Numbers(tokens * kCols, 12);
  std::vector<float> y(static_cast<size_t>(tokens * kRows)), out(kCols);
  const auto u = backend.MakeLiftedActivations();
  backend.Lift(site, x.data(), tokens, variants, *u);
  backend.LiftedMatmul(w, *u, variants, y.data());
  char name[64];
  std::snprintf(name, sizeof(name), "lifted %d+%dp x%d", stored, derived, static_cast<int>(tokens));
  Print(name, y);
  backend.LiftedRow(w, 20, 1, out.data());
  Print("  row", out);
}

void Run(const cpu::Kernels& table, bool named) {
  ThreadPool pool(2);
  const auto backend = cpu::MakeCpuBackendOn(pool, table);
  if (named) std::printf("%s\n", table.name);
  Dense(*backend);
  Attention(*backend);
  for (const auto& [stored, derived] : {std::pair{1, 0}, {1, 2}, {2, 1}, {4, 1}}) {
    for (const int64_t tokens : {1, 2, 3, 17}) Lifted(*backend, stored, derived, tokens);
  }
}

}  // namespace
}  // namespace lift

int main(int argc, char** argv) {
  for (const lift::cpu::Kernels* table : lift::cpu::RunnableKernels()) {
    bool wanted = argc == 1;
    for (int i = 1; i < argc; ++i) wanted = wanted || std::strcmp(argv[i], table->name) == 0;
    if (wanted) lift::Run(*table, argc == 1);
  }
  return 0;
}
