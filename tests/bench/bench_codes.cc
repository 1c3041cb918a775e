#include "tests/bench/bench_codes.h"

#include <chrono>
#include <cmath>
#include <cstdio>
#include <random>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "calibration/code_search.h"
#include "calibration/codes.h"
#include "nlohmann/json.hpp"

namespace lift::bench {
namespace {

constexpr int kMostBits = 16;
// Mean squared error of the best scalar quantizer of 1 to 4 bits on a unit Gaussian (Max 1960,
// table 1).
constexpr double kLloydMax[] = {0.3634, 0.1175, 0.03454, 0.009497};

struct ChainResult {
  std::string chain;
  int bits = 0;
  std::vector<std::string> codes;
  std::vector<double> error;  // after each stage
  double weights_per_second = 0;
};

absl::StatusOr<std::vector<int>> ParseChain(const std::string& text) {
  std::vector<int> chain;
  int total = 0;
  for (const auto part : absl::StrSplit(text, ',')) {
    int bits = 0;
    if (!absl::SimpleAtoi(part, &bits) || bits < 1 || bits > 4)
      return absl::InvalidArgumentError(
          absl::StrCat("chain '", text, "': stages are 1 to 4 bits, e.g. 2,1,1"));
    chain.push_back(bits);
    total += bits;
  }
  if (total > kMostBits)
    return absl::InvalidArgumentError(absl::StrCat("chain '", text, "' has over 16 bits"));
  return chain;
}

ChainResult Measure(const std::string& name, const std::vector<int>& chain, int64_t rows,
                    int64_t cols, double scale, const EncoderOptions& options, ThreadPool& pool) {
  ChainResult out{name, 0, {}, {}, 0};
  std::mt19937_64 random(0xBE7C);
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<size_t>(rows * cols));
  double power = 0;
  for (float& v : x) {
    v = normal(random);
    power += static_cast<double>(v) * v;
  }
  power /= static_cast<double>(x.size());
  const auto begin = std::chrono::steady_clock::now();
  for (size_t j = 0; j < chain.size(); ++j) {
    const LiftCode code = DefaultCode(chain[j]);
    out.bits += chain[j];
    out.codes.push_back(code.name);
    const double table_scale = j + 1 < chain.size() ? scale : 1.0;
    out.error.push_back(EncodeStage(code, table_scale, rows, cols, options, pool, x) / power);
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  out.weights_per_second = static_cast<double>(rows * cols) / seconds.count();
  return out;
}

void PrintTable(const std::vector<ChainResult>& results, int beam) {
  std::printf("Mean squared error on a unit Gaussian source, beam %d\n", beam);
  std::printf("%-10s %-18s %5s %9s %8s %10s %10s %12s  %s\n", "chain", "codes", "bits", "error",
              "dB over", "limit", "Lloyd-Max", "weights/s", "after each stage");
  for (const ChainResult& r : results) {
    const double limit = std::pow(4.0, -r.bits);
    std::string stages, codes;
    for (const std::string& code : r.codes) absl::StrAppend(&codes, codes.empty() ? "" : ",", code);
    for (double e : r.error) {
      char text[24];
      std::snprintf(text, sizeof text, " %.5f", e);
      stages += text;
    }
    char scalar[24] = "-";
    if (r.bits <= 4) std::snprintf(scalar, sizeof scalar, "%.5f", kLloydMax[r.bits - 1]);
    std::printf("%-10s %-18s %5d %9.6f %8.2f %10.6f %10s %12.0f %s\n", r.chain.c_str(),
                codes.c_str(), r.bits, r.error.back(), 10 * std::log10(r.error.back() / limit),
                limit, scalar, r.weights_per_second, stages.c_str());
  }
}

}  // namespace

CodesCommand::CodesCommand(CLI::App& app)
    : command_(app.add_subcommand(
          "codes",
          "error of the lifting codes on a Gaussian source beside the rate-distortion "
          "limit and the best scalar quantizer")) {
  command_->add_option("--chain", chains_, "stage bits, e.g. --chain 2,1 --chain 4");
  command_->add_option("--quality", quality_, "fast, default or best: the beam of lift-calibrate")
      ->check(CLI::IsMember({"fast", "default", "best"}))
      ->capture_default_str();
  command_->add_option("--beam", beam_, "survivors, instead of --quality's")
      ->check(CLI::IsMember({16, 32, 64, 128, 256}));
  command_->add_option("--rows", rows_, "rows of the source")->check(CLI::Range(1, 1 << 16));
  command_->add_option("--cols", cols_, "columns of a row (rounded to 32)")
      ->check(CLI::Range(128, 1 << 14));
  command_->add_option("--scale", scale_, "table scale of a stage that has successors")
      ->capture_default_str();
  command_->add_option("--threads", threads_, "threads (default: all cores)")
      ->check(CLI::Range(1, 1024));
  command_->add_flag("--json", json_, "print one JSON object on stdout");
}

int CodesCommand::Run() const {
  EncoderOptions options;
  options.beam = beam_ > 0 ? beam_ : quality_ == "fast" ? 32 : quality_ == "best" ? 256 : 64;
  options.lag = 48;
  ThreadPool pool(threads_ > 0 ? threads_ : AvailableCores());
  std::vector<ChainResult> results;
  for (const std::string& text : chains_) {
    const auto chain = ParseChain(text);
    if (!chain.ok()) {
      std::fprintf(stderr, "lift-bench: %s\n", std::string(chain.status().message()).c_str());
      return 2;
    }
    results.push_back(Measure(text, *chain, rows_, PaddedColumns(cols_), scale_, options, pool));
  }
  if (!json_) {
    PrintTable(results, options.beam);
    return 0;
  }
  nlohmann::json out = {{"beam", options.beam}, {"chains", nlohmann::json::array()}};
  for (const ChainResult& r : results) {
    out["chains"].push_back({{"chain", r.chain},
                             {"codes", r.codes},
                             {"bits", r.bits},
                             {"error", r.error.back()},
                             {"error_after_stages", r.error},
                             {"limit", std::pow(4.0, -r.bits)},
                             {"weights_per_second", r.weights_per_second}});
    if (r.bits <= 4) out["chains"].back()["lloyd_max"] = kLloydMax[r.bits - 1];
  }
  std::printf("%s\n", out.dump(2).c_str());
  return 0;
}

}  // namespace lift::bench
