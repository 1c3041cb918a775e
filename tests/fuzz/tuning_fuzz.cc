// A file of CPU tunings. What is accepted is in range, can be used by every table, and says the
// same when it is written and read again.
#include "kernels/base/check.h"
#include "server/tuning/cpu_tuning.h"
#include "tests/fuzz/fuzz_target.h"

namespace lift {
namespace {

void UseEntry(const TuningEntry& entry) {
  LIFT_CHECK(!entry.key.isa.empty() && !entry.key.cpu.empty());
  LIFT_CHECK(entry.key.threads >= 1 && entry.key.threads <= 1024);
  for (const auto& row : entry.tuning.most) {
    for (const int most : row) {
      LIFT_CHECK(most >= TuningEntry::kUnnamed && most <= CpuTuning::kMostColumns);
    }
  }
  for (const CpuIsa isa : kCpuIsas) {
    if (!CpuIsaSupported(isa)) continue;
    const CpuTuning allowed = AllowedCpuTuning(isa, entry.tuning);
    LIFT_CHECK(allowed.Largest() >= 0 && allowed.Largest() <= CpuTuning::kMostColumns);
    LIFT_CHECK(AllowedCpuTuning(isa, allowed) == allowed);
  }
}

}  // namespace
}  // namespace lift

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto entries = lift::ParseTunings(lift::InputText(data, size));
  if (!entries.ok()) {
    LIFT_CHECK(absl::IsInvalidArgument(entries.status()) ||
               absl::IsUnimplemented(entries.status()));
    return 0;
  }
  for (const lift::TuningEntry& entry : *entries) lift::UseEntry(entry);
  const auto again = lift::ParseTunings(lift::TuningsText(*entries));
  LIFT_CHECK(again.ok() && *again == *entries);
  return 0;
}
