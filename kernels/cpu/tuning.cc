#include "kernels/cpu/tuning.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu/tuning_impl.h"
#include "kernels/format/parity_masks.h"

namespace lift {

int CpuTuning::Largest() const {
  int largest = 0;
  for (const auto& row : most) largest = std::max(largest, *std::max_element(row, std::end(row)));
  return largest;
}

namespace cpu {
namespace {

constexpr double kMargin = 1.03;  // what a way must be faster by: less is noise

// Never, and every count that was measured.
std::vector<int> Candidates(CodeStreams code, const std::vector<CpuTuningPoint>& points) {
  std::vector<int> candidates = {0};
  for (const CpuTuningPoint& p : points) {
    if (p.code == code) candidates.push_back(p.columns);
  }
  return candidates;
}

}  // namespace

std::vector<CodeStreams> TunableCodes(const Kernels& kernels) {
  std::vector<CodeStreams> codes;
  if (kernels.lookups.columns == 0) return codes;
  for (int stored = 1; stored <= CpuTuning::kMostStored; ++stored) {
    for (int derived = 0; derived <= CpuTuning::kMostDerived; ++derived) {
      LiftCode code;
      code.stored = stored;
      code.derived = derived;
      if (derived > 0) code.masks = {kParityMasks[stored]};
      if (kernels.lookups.takes(code)) codes.push_back({stored, derived});
    }
  }
  return codes;
}

CpuTuning DefaultTuning(const Kernels& kernels) {
  CpuTuning tuning;
  for (const CodeStreams code : TunableCodes(kernels)) tuning.at(code) = kernels.lookups.most;
  return tuning;
}

CpuTuning AllowedTuning(const Kernels& kernels, const CpuTuning& tuning) {
  CpuTuning allowed;
  for (const CodeStreams code : TunableCodes(kernels)) {
    allowed.at(code) = std::clamp(tuning.at(code), 0, CpuTuning::kMostColumns);
  }
  return allowed;
}

CpuTuning ChooseTuning(const Kernels& kernels, const std::vector<CpuTuningPoint>& points) {
  CpuTuning tuning = DefaultTuning(kernels);
  const double margin = std::log(kMargin);
  for (const CodeStreams code : TunableCodes(kernels)) {
    // The logarithm of the speed that tables up to `most` columns give, over all counts alike.
    const auto gain = [&](int most) {
      double sum = 0;
      for (const CpuTuningPoint& p : points) {
        if (!(p.code == code) || p.columns > most) continue;
        if (!(p.product_seconds > 0 && p.lookup_seconds > 0)) continue;  // no clock is perfect
        const double ratio = std::log(p.product_seconds / p.lookup_seconds);
        if (std::abs(ratio) >= margin) sum += ratio;
      }
      return sum;
    };
    double to_beat = gain(tuning.at(code)) + margin;  // of the default
    for (const int most : Candidates(code, points)) {
      if (!(gain(most) > to_beat)) continue;
      to_beat = gain(most) + margin;
      tuning.at(code) = most;
    }
  }
  return AllowedTuning(kernels, tuning);
}

}  // namespace cpu

std::string_view CpuTableName(CpuIsa isa) { return cpu::KernelsFor(isa).name; }

std::vector<CodeStreams> TunableCodes(CpuIsa isa) {
  return cpu::TunableCodes(cpu::KernelsFor(isa));
}

CpuTuning DefaultCpuTuning(CpuIsa isa) { return cpu::DefaultTuning(cpu::KernelsFor(isa)); }

CpuTuning AllowedCpuTuning(CpuIsa isa, const CpuTuning& tuning) {
  return cpu::AllowedTuning(cpu::KernelsFor(isa), tuning);
}

CpuTuningReport MeasureCpuTuning(ThreadPool& pool, CpuIsa isa, const CpuTuningOptions& options) {
  return cpu::MeasureTuning(pool, cpu::KernelsFor(isa), options);
}

}  // namespace lift
