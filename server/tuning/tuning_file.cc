#include "server/tuning/tuning_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/replace_file.h"

namespace lift {
namespace {

using nlohmann::json;

constexpr char kFormat[] = "liftserve-cpu-tuning";
constexpr int kVersion = 1;
constexpr size_t kMostBytes = 256 << 10, kMostEntries = 64, kMostName = 256;
constexpr int kMostThreads = 1024;

absl::Status Wrong(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("is no file of CPU tunings: ", what));
}

// The number at `key`, or -1 if there is none from `low` to `high`.
int Number(const json& object, const char* key, int low, int high) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_number_integer()) return -1;
  // Unsigned ones beyond int64 wrap below `low`.
  const auto value = found->get<int64_t>();
  return value >= low && value <= high ? static_cast<int>(value) : -1;
}

// The name at `key`, empty if it is none.
std::string Name(const json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_string()) return "";
  std::string name = found->get<std::string>();
  if (name.size() > kMostName) name.clear();
  return name;
}

absl::StatusOr<TuningEntry> ParseEntry(const json& document) {
  if (!document.is_object()) return Wrong("an entry is no object");
  TuningEntry entry{
      {Name(document, "isa"), Name(document, "cpu"), Number(document, "threads", 1, kMostThreads)},
      {}};
  if (entry.key.isa.empty() || entry.key.cpu.empty() || entry.key.threads < 0) {
    return Wrong("an entry needs isa, cpu and threads");
  }
  const auto most = document.find("most_columns");
  if (most == document.end() || !most->is_object()) return Wrong("an entry has no most_columns");
  size_t named = 0;
  for (int stored = 0; stored <= CpuTuning::kMostStored; ++stored) {
    for (int derived = 0; derived <= CpuTuning::kMostDerived; ++derived) {
      const std::string name = CodeName({stored, derived});
      int& value = entry.tuning.at({stored, derived});
      value = TuningEntry::kUnnamed;
      if (stored == 0 || !most->contains(name)) continue;
      value = Number(*most, name.c_str(), 0, CpuTuning::kMostColumns);
      if (value < 0) {
        return Wrong(absl::StrCat(name, " must be 0 to ", CpuTuning::kMostColumns, " columns"));
      }
      ++named;
    }
  }
  if (named != most->size()) return Wrong("most_columns names a code that there is not");
  return entry;
}

// At most one byte more than a file may have.
absl::StatusOr<std::string> ReadBytes(const std::string& path) {
  // A pipe would keep whoever opens it waiting.
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file < 0) {
    if (errno == ENOENT || errno == ENOTDIR) {
      return absl::NotFoundError(absl::StrCat(path, " does not exist"));
    }
    return absl::UnavailableError(absl::StrCat(path, " cannot be read"));
  }
  const absl::Cleanup close_file = [file] { close(file); };
  struct stat facts {};
  if (fstat(file, &facts) != 0 || !S_ISREG(facts.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is no file"));
  }
  std::string text(kMostBytes + 1, '\0');
  size_t size = 0;
  for (ssize_t got = 1; got > 0 && size < text.size(); size += static_cast<size_t>(got)) {
    got = read(file, text.data() + size, text.size() - size);
    if (got < 0) return absl::UnavailableError(absl::StrCat(path, " cannot be read"));
  }
  text.resize(size);
  return text;
}

}  // namespace

std::string CodeName(CodeStreams code) { return absl::StrCat(code.stored, "+", code.derived, "p"); }

absl::StatusOr<std::vector<TuningEntry>> ParseTunings(std::string_view text) {
  if (text.size() > kMostBytes) return Wrong("it is too large");
  const json document = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!document.is_object() || Name(document, "format") != kFormat) {
    return Wrong("it is damaged or something else");
  }
  const auto version = document.find("version");
  if (version == document.end() || !version->is_number_integer()) return Wrong("it has no version");
  if (*version != kVersion) {
    return absl::UnimplementedError(
        absl::StrCat("has version ", version->dump(), ", not ", kVersion));
  }
  const auto listed = document.find("entries");
  if (listed == document.end() || !listed->is_array() || listed->size() > kMostEntries) {
    return Wrong(absl::StrCat("it needs a list of at most ", kMostEntries, " entries"));
  }
  std::vector<TuningEntry> entries;
  for (const json& each : *listed) {
    LIFT_ASSIGN_OR_RETURN(TuningEntry entry, ParseEntry(each));
    entries.push_back(std::move(entry));
  }
  return entries;
}

std::string TuningsText(const std::vector<TuningEntry>& entries) {
  json listed = json::array();
  for (const TuningEntry& entry : entries) {
    json most = json::object();
    for (int stored = 1; stored <= CpuTuning::kMostStored; ++stored) {
      for (int derived = 0; derived <= CpuTuning::kMostDerived; ++derived) {
        const int value = entry.tuning.at({stored, derived});
        if (value != TuningEntry::kUnnamed) most[CodeName({stored, derived})] = value;
      }
    }
    listed.push_back({{"isa", entry.key.isa},
                      {"cpu", entry.key.cpu},
                      {"threads", entry.key.threads},
                      {"most_columns", std::move(most)}});
  }
  const json document = {{"format", kFormat}, {"version", kVersion}, {"entries", listed}};
  // A CPU's name may be no UTF-8.
  return document.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

absl::StatusOr<std::vector<TuningEntry>> ReadTunings(const std::string& path) {
  LIFT_ASSIGN_OR_RETURN(const std::string text, ReadBytes(path));
  auto entries = ParseTunings(text);
  if (entries.ok()) return entries;
  return absl::Status(entries.status().code(), absl::StrCat(path, " ", entries.status().message()));
}

absl::Status StoreTuning(const std::string& path, const TuningEntry& entry) {
  auto read = ReadTunings(path);
  std::vector<TuningEntry> entries;
  if (read.ok()) {
    entries = *std::move(read);
  } else if (!absl::IsNotFound(read.status()) && !absl::IsUnimplemented(read.status())) {
    return absl::FailedPreconditionError(
        absl::StrCat(read.status().message(), "; it is left as it is"));
  }
  std::erase_if(entries, [&](const TuningEntry& other) { return other.key == entry.key; });
  entries.insert(entries.begin(), entry);
  if (entries.size() > kMostEntries) entries.resize(kMostEntries);
  std::error_code ignored;  // the write will tell
  std::filesystem::create_directories(std::filesystem::path(path).parent_path(), ignored);
  if (ReplaceFile(path, TuningsText(entries), 0644)) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat(path, " cannot be written"));
}

}  // namespace lift
