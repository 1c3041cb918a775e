#include "server/tuning/cpu_tuning.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace lift {
namespace {

std::string Environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::string Printable(absl::string_view text) {
  std::string out(text.substr(0, 128));
  for (char& c : out) c = absl::ascii_isprint(static_cast<unsigned char>(c)) ? c : '?';
  return out;
}

// As the kernel names it: x86 by "model name", Arm by numbers of its maker.
std::string CpuModelName() {
  std::ifstream in("/proc/cpuinfo");
  std::string line, arm;
  while (std::getline(in, line)) {
    const size_t colon = line.find(':');
    if (colon == std::string::npos) {
      if (!arm.empty()) break;  // the first core speaks for all
      continue;
    }
    const auto field = absl::StripAsciiWhitespace(absl::string_view(line).substr(0, colon));
    const auto value = absl::StripAsciiWhitespace(absl::string_view(line).substr(colon + 1));
    if (field == "model name" && !value.empty()) return Printable(value);
    for (const auto* part : {"CPU implementer", "CPU part", "CPU variant"}) {
      if (field == part) absl::StrAppend(&arm, arm.empty() ? "" : " ", value.substr(0, 16));
    }
  }
  return arm.empty() ? "unknown" : Printable(arm);
}

// Codes that an entry does not name keep their constant.
CpuTuning Complete(CpuIsa isa, const CpuTuning& stored) {
  CpuTuning tuning = DefaultCpuTuning(isa);
  for (const CodeStreams code : TunableCodes(isa)) {
    if (stored.at(code) != TuningEntry::kUnnamed) tuning.at(code) = stored.at(code);
  }
  return AllowedCpuTuning(isa, tuning);
}

ResolvedTuning Constants(CpuIsa isa, absl::string_view why) {
  const CpuTuning tuning = DefaultCpuTuning(isa);
  return {tuning, absl::StrCat("built-in (", TuningSummary(isa, tuning), ")", why)};
}

// optional: there need be no file.
ResolvedTuning FromFile(const std::string& path, bool optional, CpuIsa isa, int threads) {
  const auto entries = ReadTunings(path);
  if (optional && absl::IsNotFound(entries.status())) {
    return Constants(isa, "; lift-bench tune measures it");
  }
  if (!entries.ok()) return Constants(isa, absl::StrCat("; ", entries.status().message()));
  const TuningKey key = TuningKeyHere(isa, threads);
  for (const TuningEntry& entry : *entries) {
    if (entry.key != key) continue;
    const CpuTuning tuning = Complete(isa, entry.tuning);
    return {tuning, absl::StrCat("of ", path, " (", TuningSummary(isa, tuning), ")")};
  }
  return Constants(isa, absl::StrCat("; ", path, " has none for ", key.isa, ", ", key.cpu, ", ",
                                     key.threads, " threads"));
}

ResolvedTuning Measure(ThreadPool& pool, CpuIsa isa) {
  const CpuTuning tuning = MeasureCpuTuning(pool, isa, {}).tuning;
  ResolvedTuning measured{tuning, absl::StrCat("measured now (", TuningSummary(isa, tuning), ")")};
  const std::string path = DefaultTuningPath();
  const absl::Status stored = path.empty()
                                  ? absl::NotFoundError("no home folder to store it in")
                                  : StoreTuning(path, MeasuredEntry(isa, pool.threads(), tuning));
  absl::StrAppend(&measured.note, stored.ok() ? ", stored in " : "; not stored: ",
                  stored.ok() ? path : std::string(stored.message()));
  return measured;
}

}  // namespace

TuningKey TuningKeyHere(CpuIsa isa, int threads) {
  return {std::string(CpuTableName(isa)), CpuModelName(), threads};
}

std::string DefaultTuningPath() {
  std::string folder = Environment("LIFTSERVE_CACHE");
  if (const std::string caches = Environment("XDG_CACHE_HOME"); folder.empty() && !caches.empty()) {
    folder = caches + "/liftserve";
  }
  if (const std::string home = Environment("HOME"); folder.empty() && !home.empty()) {
    folder = home + "/.cache/liftserve";
  }
  return folder.empty() ? "" : folder + "/cpu-tuning.json";
}

TuningEntry MeasuredEntry(CpuIsa isa, int threads, const CpuTuning& tuning) {
  TuningEntry entry{TuningKeyHere(isa, threads), {}};
  for (auto& row : entry.tuning.most) std::fill(row, std::end(row), TuningEntry::kUnnamed);
  for (const CodeStreams code : TunableCodes(isa)) entry.tuning.at(code) = tuning.at(code);
  return entry;
}

std::string TuningSummary(CpuIsa isa, const CpuTuning& tuning) {
  std::string text;
  for (const CodeStreams code : TunableCodes(isa)) {
    absl::StrAppend(&text, text.empty() ? "" : ", ", CodeName(code), " ", tuning.at(code));
  }
  return text;
}

ResolvedTuning ResolveCpuTuning(const std::string& mode, ThreadPool& pool, CpuIsa isa) {
  if (TunableCodes(isa).empty()) return {{}, "these kernels leave no choice"};
  if (mode == "default") return Constants(isa, "");
  if (mode == "measure") return Measure(pool, isa);
  const bool automatic = mode == "auto";
  const std::string path = automatic ? DefaultTuningPath() : mode;
  if (path.empty()) return Constants(isa, "; no home folder to look for a measured one");
  return FromFile(path, automatic, isa, pool.threads());
}

}  // namespace lift
