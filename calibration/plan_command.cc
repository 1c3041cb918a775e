#include "calibration/plan_command.h"

#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <string>
#include <vector>

#include "calibration/variant_plan.h"
#include "kernels/format/lifted_file.h"
#include "nlohmann/json.hpp"

namespace lift {
namespace {

constexpr char kAbout[] =
    "Says what variants of other sizes a calibrated file holds: any prefix of its planes is one, "
    "and\n"
    "lift-server --cut-mb serves it. The expected KL is calibration's own prediction, corrected by "
    "the\n"
    "variants that were measured. Reads no planes.";

struct PlanOptions {
  std::string file;
  std::vector<double> budget_mb, bits;
  bool json = false;
};

absl::Status Plan(const PlanOptions& options) {
  LIFT_ASSIGN_OR_RETURN(const auto bare, LiftedFile::Open(options.file, {.verify_planes = false}));
  LIFT_ASSIGN_OR_RETURN(const std::vector<TensorCost> costs, CostsOf(*bare));
  uint64_t weights = 0;
  for (const LiftedTensor& tensor : bare->tensors())
    weights += static_cast<uint64_t>(tensor.rows * tensor.cols);
  LiftedFile::OpenOptions open{.verify_planes = false, .cuts = BytesOfMegabytes(options.budget_mb)};
  for (double bits : options.bits) {
    open.cuts.push_back(bare->fixed_bytes() + static_cast<uint64_t>(std::llround(
                                                  bits * static_cast<double>(weights) / 8)));
  }
  LIFT_ASSIGN_OR_RETURN(const auto file, LiftedFile::Open(options.file, open));
  nlohmann::json rows = nlohmann::json::array();
  if (!options.json)
    std::printf("%-12s %8s %8s %14s %12s %12s\n", "variant", "lambda", "bits", "bytes", "KL",
                "measured");
  for (const LiftedVariant& v : file->variants()) {
    if (v.full) continue;
    const double kl = ExpectedKl(*bare, costs, v.plane_bytes);
    const bool measured = v.kl >= 0;
    rows.push_back({{"name", v.name},
                    {"lambda", v.lambda},
                    {"bits_per_weight", v.bits_per_weight},
                    {"budget_bytes", v.budget_bytes},
                    {"bytes", v.bytes},
                    {"kl", measured ? v.kl : kl},
                    {"measured", measured}});
    if (!options.json)
      std::printf("%-12s %8.3f %8.3f %14llu %12.6f %12s\n", v.name.c_str(), v.lambda,
                  v.bits_per_weight, static_cast<unsigned long long>(v.bytes), measured ? v.kl : kl,
                  measured ? "yes" : "expected");
  }
  if (options.json) std::cout << nlohmann::json{{"variants", rows}}.dump(2) << "\n";
  return absl::OkStatus();
}

}  // namespace

int PlanMain(int argc, char** argv) {
  CLI::App app(kAbout, "lift-calibrate plan");
  PlanOptions options;
  app.add_option("--file", options.file, "lifted file")->required();
  app.add_option("--budget-mb", options.budget_mb,
                 "memory budgets in MB (10^6 bytes), everything included")
      ->delimiter(',')
      ->check(CLI::Range(1e-3, 1e9));
  app.add_option("--bits", options.bits, "bits per weight")
      ->delimiter(',')
      ->check(CLI::Range(1.0, 16.0));
  app.add_flag("--json", options.json, "print one JSON object on stdout");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  if (const absl::Status status = Plan(options); !status.ok()) {
    std::fprintf(stderr, "lift-calibrate plan: %s\n", std::string(status.message()).c_str());
    return 2;
  }
  return 0;
}

}  // namespace lift
