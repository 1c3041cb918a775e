#include "calibration/router_command.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>

#include "calibration/router/collect.h"
#include "calibration/router/fit.h"
#include "kernels/format/lifted_file.h"

namespace lift {
namespace {

constexpr char kAbout[] =
    "Trains the router of a calibrated file: which queries suffer how much at which precision. "
    "Needs "
    "no\n"
    "labels: each prompt is answered by the finest variant, and what every other variant makes of "
    "that\n"
    "answer is measured. The result goes into the lifted file, with a report of how well it "
    "predicts\n"
    "prompts of sources it was not trained on; weights stay as they are. Servers use it from then "
    "on.";

struct Options {
  CollectRequest collect;
  std::string out;
  int folds = 5;
  bool json = false, quiet = false;
};

void Describe(CLI::App& app, Options& o) {
  app.footer(
      "Example:\n  lift-calibrate router --file model.lift --prompts train.jsonl\n"
      "lift-eval router --help: judging the result on other prompts.\n"
      "Exit codes: 0 done, 1 the work failed, 2 the command line or an input is wrong.");
  app.add_option("--file", o.collect.model, "lifted file")->required();
  app.add_option(
         "--prompts", o.collect.prompts,
         "JSON lines with \"prompt\" or \"messages\"; \"source\" keeps prompts of one origin "
         "on one side of every split")
      ->required();
  app.add_option("--out", o.out, "file to write (default: --file itself)");
  app.add_option("--traces", o.collect.traces,
                 "keep what was measured in this file, or use what is in it");
  app.add_option("--limit", o.collect.limit, "use only the first so many prompts; 0 = all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--max-new-tokens", o.collect.trace.max_new_tokens, "tokens of an answer, at most")
      ->check(CLI::Range(2, 4096))
      ->capture_default_str();
  app.add_option("--temperature", o.collect.trace.temperature,
                 "of the answers; 1 = the model's own distribution, 0 = greedy")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str();
  app.add_option("--seed", o.collect.trace.seed, "of the answers")->capture_default_str();
  app.add_flag("--exact", o.collect.trace.exact,
               "score with the roundings of decoding instead of a prompt's; several times slower");
  app.add_option("--folds", o.folds, "splits of the sources to test on")
      ->check(CLI::Range(2, 20))
      ->capture_default_str();
  app.add_option("--threads", o.collect.threads, "worker threads (default: all cores)")
      ->check(CLI::Range(0, 1024));
  app.add_flag("--json", o.json, "print one JSON object on stdout");
  app.add_flag("--quiet", o.quiet, "no progress");
}

void PrintReport(const FitReport& report, const TraceSet& traces,
                 const router::Predictor& predictor) {
  std::printf("%lld prompts, %lld positions, %d trees, %s\n",
              static_cast<long long>(report.prompts), static_cast<long long>(report.positions),
              report.trees, predictor.parts().version.c_str());
  std::printf(
      "on sources it was not trained on: rank correlation %.3f with the true harm (standard "
      "deviation %.2f nats of log KL), calibration error %.1f %%\n",
      report.rank_correlation, report.spread, 100 * report.calibration_error);
  std::printf("\n%-16s %10s %12s\n", "variant", "bits", "rank corr.");
  for (size_t v = 0; v < report.kl_rank_correlation.size(); ++v) {
    std::printf("%-16s %10.3f %12.3f\n", traces.variants[v].name.c_str(),
                traces.variants[v].bits_per_weight, report.kl_rank_correlation[v]);
  }
  std::printf("\n%-22s %12s %12s\n", "decile of harm", "predicted KL", "measured KL");
  for (size_t b = 0; b < report.reliability.size(); ++b) {
    std::printf("%-22zu %12.5f %12.5f\n", b + 1, report.reliability[b].predicted,
                report.reliability[b].measured);
  }
  std::printf("\n%-22s %12s %24s\n", "feature", "gain", "rank corr. without it");
  for (const FeatureUse& f : report.features) {
    std::printf("%-22s %11.1f%% %24.3f\n", f.name.c_str(), 100 * f.gain, f.without);
  }
}

absl::Status Run(const Options& options) {
  const std::string out = options.out.empty() ? options.collect.model : options.out;
  LIFT_ASSIGN_OR_RETURN(const auto file, LiftedFile::Open(options.collect.model));
  LIFT_ASSIGN_OR_RETURN(const TraceSet traces, ObtainTraces(options.collect));
  FitOptions fit_options;
  fit_options.folds = options.folds;
  LIFT_ASSIGN_OR_RETURN(const Fit fit, FitPredictor(traces, fit_options));
  const std::string document = fit.predictor->ToJson();
  LIFT_RETURN_IF_ERROR(file->SaveWithRouter(out, document));
  if (options.json) {
    nlohmann::json report = nlohmann::json::parse(fit.predictor->parts().report);
    report["version"] = fit.predictor->parts().version;
    report["out"] = out;
    report["bytes"] = document.size();
    std::cout << report.dump(2) << "\n";
  } else {
    PrintReport(fit.report, traces, *fit.predictor);
  }
  return absl::OkStatus();
}

}  // namespace

int RouterMain(int argc, char** argv) {
  CLI::App app(kAbout, "lift-calibrate router");
  Options options;
  Describe(app, options);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  options.collect.show_progress = !options.quiet;
  const absl::Status status = Run(options);
  if (status.ok()) return 0;
  std::fprintf(stderr, "lift-calibrate router: %s\n", std::string(status.message()).c_str());
  return status.code() == absl::StatusCode::kInternal ||
                 status.code() == absl::StatusCode::kResourceExhausted
             ? 1
             : 2;
}

}  // namespace lift
