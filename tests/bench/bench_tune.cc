#include "tests/bench/bench_tune.h"

#include <cstdio>
#include <nlohmann/json.hpp>

#include "absl/strings/string_view.h"
#include "server/tuning/cpu_tuning.h"

namespace lift::bench {
namespace {

constexpr int kWorkFailed = 1, kWrongInput = 2;

int Fail(int code, absl::string_view message) {
  std::fprintf(stderr, "lift-bench: %.*s\n", static_cast<int>(message.size()), message.data());
  return code;
}

// Of one column; all threads together.
double NsOf512Signs(double seconds, const CpuTuningPoint& p) {
  return seconds * 1e9 * 512 / p.signs;
}

const char* Taken(int most, const CpuTuningPoint& p) {
  return p.columns <= most ? "tables" : "products";
}

void PrintTable(const CpuTuningReport& report, const CpuTuning& standard) {
  std::printf("ns for 512 signs of a column\n%-6s %7s %9s %9s %7s  %-9s %-9s\n", "code", "columns",
              "products", "tables", "ratio", "built-in", "chosen");
  for (size_t i = 0; i < report.points.size(); ++i) {
    const CpuTuningPoint& p = report.points[i];
    std::printf("%-6s %7d %9.2f %9.2f %7.2f  %-9s %-9s\n", CodeName(p.code).c_str(), p.columns,
                NsOf512Signs(p.product_seconds, p), NsOf512Signs(p.lookup_seconds, p),
                p.product_seconds / p.lookup_seconds, Taken(standard.at(p.code), p),
                Taken(report.tuning.at(p.code), p));
    if (i + 1 < report.points.size() && report.points[i + 1].code == p.code) continue;
    std::printf("%-6s most columns for tables: built-in %d, chosen %d\n\n",
                CodeName(p.code).c_str(), standard.at(p.code), report.tuning.at(p.code));
  }
}

nlohmann::json ToJson(const CpuTuningReport& report, const CpuTuning& standard,
                      const std::vector<CodeStreams>& codes) {
  nlohmann::json out = {{"points", nlohmann::json::array()}, {"most_columns", nlohmann::json{}}};
  for (const CpuTuningPoint& p : report.points) {
    out["points"].push_back({{"code", CodeName(p.code)},
                             {"columns", p.columns},
                             {"product_ns_per_512_signs", NsOf512Signs(p.product_seconds, p)},
                             {"table_ns_per_512_signs", NsOf512Signs(p.lookup_seconds, p)},
                             {"built_in", Taken(standard.at(p.code), p)},
                             {"chosen", Taken(report.tuning.at(p.code), p)}});
  }
  for (const CodeStreams code : codes) {
    out["most_columns"][CodeName(code)] = {{"built_in", standard.at(code)},
                                           {"chosen", report.tuning.at(code)}};
  }
  return out;
}

}  // namespace

TuneCommand::TuneCommand(CLI::App& app)
    : command_(app.add_subcommand(
          "tune",
          "measures up to how many columns sums looked up in tables are faster than sign products\n"
          "on this machine, and stores it: lift-server and lift-bench --cpu-tuning auto take it.\n"
          "Answers stay the same to the bit. Best while nothing else runs")) {
  command_->add_option("--isa", isa_, "as of lift-bench itself")->capture_default_str();
  command_->add_option("--threads", threads_, "threads (default: all cores of this process)")
      ->check(CLI::Range(1, 1024));
  command_->add_option("--seconds", seconds_, "time spent on all measurements, about")
      ->check(CLI::Range(0.01, 600.0))
      ->capture_default_str();
  command_->add_option("--out", out_,
                       "file to store it in (default: cpu-tuning.json in ~/.cache/liftserve or as\n"
                       "$LIFTSERVE_CACHE or $XDG_CACHE_HOME say)");
  command_->add_flag("--dry-run", dry_run_, "store nothing");
  command_->add_flag("--json", json_, "print one JSON object on stdout");
}

int TuneCommand::Run() const {
  const auto isa = CpuIsaNamed(isa_);
  if (!isa || !CpuIsaSupported(*isa)) {
    return Fail(kWrongInput, "this machine has no instruction set \"" + isa_ + "\"");
  }
  const std::string path = dry_run_ ? "" : out_.empty() ? DefaultTuningPath() : out_;
  if (path.empty() && !dry_run_) {
    return Fail(kWrongInput, "no home folder to store it in; give --out or --dry-run");
  }
  ThreadPool pool(threads_ > 0 ? threads_ : AvailableCores());
  const TuningKey key = TuningKeyHere(*isa, pool.threads());
  std::fprintf(stderr, "lift-bench tune: %s, %s, %d threads\n", key.isa.c_str(), key.cpu.c_str(),
               key.threads);
  const std::vector<CodeStreams> codes = TunableCodes(*isa);
  const CpuTuning standard = DefaultCpuTuning(*isa);
  const CpuTuningReport report = MeasureCpuTuning(pool, *isa, {.seconds = seconds_});
  if (json_) {
    nlohmann::json out = ToJson(report, standard, codes);
    out["isa"] = key.isa;
    out["cpu"] = key.cpu;
    out["threads"] = key.threads;
    out["stored_in"] = codes.empty() ? "" : path;
    std::printf("%s\n", out.dump().c_str());
  } else {
    PrintTable(report, standard);
    if (codes.empty()) std::printf("%s looks nothing up: there is no choice\n", key.isa.c_str());
  }
  if (std::fflush(stdout) != 0) return kWorkFailed;
  if (codes.empty() || path.empty()) return 0;
  const absl::Status stored = StoreTuning(path, MeasuredEntry(*isa, pool.threads(), report.tuning));
  if (!stored.ok()) return Fail(kWorkFailed, stored.message());
  std::fprintf(stderr, "stored in %s\n", path.c_str());
  return 0;
}

}  // namespace lift::bench
