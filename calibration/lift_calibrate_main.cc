// lift-calibrate: a checkpoint and some text in, a lifted file with nested precision variants out.
#include <sys/resource.h>

#include <cmath>
#include <cstdio>
#include <iostream>
#include <string_view>

#include "CLI/CLI.hpp"
#include "calibration/calibrator.h"
#include "calibration/export/export_command.h"
#include "calibration/plan_command.h"
#include "calibration/router_command.h"
#include "nlohmann/json.hpp"

namespace {

struct Arguments {
  lift::CalibrationOptions options;
  std::vector<double> budget_mb, lambda, bits;
  std::string quality = "default", device = "cpu";
  int64_t samples = 0, context = 0;
  bool json = false, quiet = false;
};

void Describe(CLI::App& app, Arguments& a) {
  app.description(
      "Turns a full-precision checkpoint into a lifted file: several precision variants of one "
      "model that share one set of bit planes.\n"
      "Ask for variants by memory budget (--budget-mb), by bits per weight (--bits) or by lambda "
      "(bits = 16^lambda); lists are comma-separated "
      "and may be mixed. lambda 1 stores the source tensors too.");
  app.footer(
      "Example:\n  lift-calibrate --model model.gguf --calib text.txt --bits 2,3,4,6 --out "
      "model.lift\n"
      "lift-calibrate export --help: one variant as safetensors or ONNX.\n"
      "lift-calibrate plan --help: other sizes of a calibrated file.\n"
      "Exit codes: 0 done, 1 the work failed, 2 the command line or an input is wrong.");
  app.add_option("--model", a.options.model_path, "Hugging Face folder or GGUF file")->required();
  app.add_option(
         "--calib", a.options.calib_paths,
         "calibration text as [NAME=]PATH[:WEIGHT]: plain text, or .jsonl with \"text\" or chat "
         "\"messages\"; weights share out the samples, named sources are measured apart")
      ->required()
      ->delimiter(',');
  app.add_option("--budget-mb", a.budget_mb,
                 "memory budgets in MB (10^6 bytes), everything included")
      ->delimiter(',');
  app.add_option("--lambda", a.lambda, "precision knobs in [0, 1]")->delimiter(',');
  app.add_option("--bits", a.bits, "bits per weight")->delimiter(',');
  app.add_option("--out", a.options.out_path, "lifted file to write")->required();
  app.add_option(
      "--eval", a.options.eval_path,
      "measure perplexity and KL on this text (default: a held-out tenth of the calibration text)");
  app.add_option("--eval-tokens", a.options.eval_tokens, "tokens to measure on")
      ->capture_default_str();
  app.add_option("--samples", a.samples,
                 "calibration samples (default 64 fast, 128 default, 256 best)");
  app.add_option("--context", a.context, "tokens per sample (default 256 fast, 512 else)");
  app.add_option("--quality", a.quality,
                 "fast, default or best: wider searches, more text, more probes")
      ->check(CLI::IsMember({"fast", "default", "best"}))
      ->capture_default_str();
  app.add_option("--chain", a.options.chain,
                 "stage sizes in bits, e.g. 2,2,2 (default: chosen from the variants)")
      ->delimiter(',')
      ->check(CLI::Range(1, 4));
  app.add_option("--beam", a.options.beam, "survivors of the sign search: 16, 32, 64, 128 or 256")
      ->check(CLI::IsMember({16, 32, 64, 128, 256}));
  app.add_option("--prefix-bits", a.options.prefix_bits,
                 "fit each layer to inputs that the layers before it give at so many bits; 0: to "
                 "the source's")
      ->check(CLI::Range(0, 12))
      ->capture_default_str();
  app.add_option("--threads", a.options.threads, "worker threads (default: all cores)")
      ->check(CLI::Range(1, 1024));
  app.add_option("--seed", a.options.seed,
                 "seed of rotations and sample choice; same seed, same file")
      ->capture_default_str();
  app.add_option("--device", a.device, "cpu (calibration runs on the CPU in this version)")
      ->check(CLI::IsMember({"cpu"}))
      ->capture_default_str();
  app.add_flag("!--no-measure", a.options.measure, "skip measuring perplexity and KL");
  app.add_flag("!--no-resume", a.options.resume,
               "begin anew even where an interrupted run with the same inputs left OUT.journal");
  app.add_flag("--json", a.json, "print one JSON object on stdout");
  app.add_flag("--quiet", a.quiet, "no progress");
}

// Returns a sentence if the arguments make no sense together.
std::string Complete(Arguments& a) {
  lift::CalibrationOptions& o = a.options;
  for (double mb : a.budget_mb) {
    if (!(mb > 0 && mb < 1e9)) return "--budget-mb must be positive";
    o.variants.push_back({{}, {}, static_cast<uint64_t>(std::llround(mb * 1e6))});
  }
  for (double lambda : a.lambda) {
    if (!(lambda >= 0 && lambda <= 1)) return "--lambda must be in [0, 1]";
    o.variants.push_back({{}, lambda, {}});
  }
  for (double bits : a.bits) {
    if (!(bits >= 1 && bits <= 12)) return "--bits must be in [1, 12]";
    o.variants.push_back({bits, {}, {}});
  }
  if (o.variants.empty())
    return "ask for at least one variant with --budget-mb, --lambda or --bits";
  o.quality = a.quality == "fast"   ? lift::CalibrationQuality::kFast
              : a.quality == "best" ? lift::CalibrationQuality::kBest
                                    : lift::CalibrationQuality::kDefault;
  if (a.samples < 0 || a.samples > 1 << 20) return "--samples must be between 1 and 1048576";
  if (a.context < 0 || (a.context > 0 && a.context < 16) || a.context > 1 << 17)
    return "--context must be between 16 and 131072";
  const bool fast = a.quality == "fast", best = a.quality == "best";
  o.data.samples = a.samples > 0 ? a.samples : fast ? 64 : best ? 256 : 128;
  o.data.context = a.context > 0 ? a.context : fast ? 256 : 512;
  o.data.held_out_tokens = o.eval_tokens;
  o.show_progress = !a.quiet;
  return "";
}

uint64_t PeakRss() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<uint64_t>(usage.ru_maxrss) * 1024;
}

nlohmann::json ToJson(const lift::CalibrationResult& result) {
  nlohmann::json out;
  const auto measured = [](double x) {
    return x < 0 ? nlohmann::json(nullptr) : nlohmann::json(x);
  };
  out["variants"] = nlohmann::json::array();
  for (const lift::LiftedVariant& v : result.variants) {
    out["variants"].push_back({{"name", v.name},
                               {"lambda", v.lambda},
                               {"bits_per_weight", v.bits_per_weight},
                               {"budget_bytes", v.budget_bytes},
                               {"bytes", v.bytes},
                               {"kl", measured(v.kl)},
                               {"perplexity", measured(v.perplexity)}});
  }
  out["reference"] = {{"name", result.reference.name},
                      {"perplexity", measured(result.reference.perplexity)},
                      {"bytes", result.reference.bytes},
                      {"bits_per_weight", result.reference.bits_per_weight}};
  out["seconds"] = result.seconds;
  out["peak_rss_bytes"] = PeakRss();
  out["source_sha256"] = result.source_sha256;
  out["chain"] = result.chain;
  out["weights"] = result.weights;
  out["calibration_tokens"] = result.calibration_tokens;
  out["eval_tokens"] = result.eval_tokens;
  for (const lift::SourceReport& source : result.sources) {
    nlohmann::json kl;
    for (size_t i = 0; i < source.kl.size(); ++i) kl[result.variants[i].name] = source.kl[i];
    out["sources"].push_back({{"name", source.name},
                              {"weight", source.weight},
                              {"samples", source.samples},
                              {"tokens", source.tokens},
                              {"kl", kl}});
  }
  for (const auto& [phase, seconds] : result.phases) out["phases"][phase] = seconds;
  return out;
}

void PrintTable(const lift::CalibrationResult& result) {
  const auto number = [](double x, const char* format) {
    char text[32];
    std::snprintf(text, sizeof text, format, x);
    return std::string(x < 0 ? "-" : text);
  };
  std::printf("%-12s %8s %8s %14s %12s %12s\n", "variant", "lambda", "bits", "bytes", "perplexity",
              "KL");
  for (const lift::LiftedVariant& v : result.variants) {
    std::printf("%-12s %8.3f %8.3f %14llu %12s %12s\n", v.name.c_str(), v.lambda, v.bits_per_weight,
                static_cast<unsigned long long>(v.bytes), number(v.perplexity, "%.3f").c_str(),
                number(v.kl, "%.6f").c_str());
  }
  for (const lift::SourceReport& source : result.sources) {
    std::printf("KL on %s (weight %g, %lld samples, %lld tokens held out):", source.name.c_str(),
                source.weight, static_cast<long long>(source.samples),
                static_cast<long long>(source.tokens));
    for (size_t i = 0; i < source.kl.size(); ++i)
      std::printf(" %s %s", result.variants[i].name.c_str(), number(source.kl[i], "%.5f").c_str());
    std::printf("\n");
  }
  if (result.reference.perplexity > 0) {
    std::printf("%-12s %8s %8.3f %14llu %12.3f %12s\n", "(reference)", "1",
                result.reference.bits_per_weight,
                static_cast<unsigned long long>(result.reference.bytes),
                result.reference.perplexity, "0");
  }
  std::printf(
      "%.1f s, peak memory %.0f MB, %lld calibration tokens, measured on %lld held-out tokens\n",
      result.seconds, static_cast<double>(PeakRss()) / 1e6,
      static_cast<long long>(result.calibration_tokens),
      static_cast<long long>(result.eval_tokens));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1 && std::string_view(argv[1]) == "export")
    return lift::ExportMain(argc - 1, argv + 1);
  if (argc > 1 && std::string_view(argv[1]) == "plan") return lift::PlanMain(argc - 1, argv + 1);
  if (argc > 1 && std::string_view(argv[1]) == "router")
    return lift::RouterMain(argc - 1, argv + 1);
  CLI::App app;
  Arguments arguments;
  Describe(app, arguments);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  if (const std::string wrong = Complete(arguments); !wrong.empty()) {
    std::fprintf(stderr, "lift-calibrate: %s\n", wrong.c_str());
    return 2;
  }
  const absl::StatusOr<lift::CalibrationResult> result = lift::Calibrate(arguments.options);
  if (!result.ok()) {
    std::fprintf(stderr, "lift-calibrate: %s\n", std::string(result.status().message()).c_str());
    const absl::StatusCode code = result.status().code();
    return code == absl::StatusCode::kInternal || code == absl::StatusCode::kResourceExhausted ||
                   code == absl::StatusCode::kUnknown
               ? 1
               : 2;
  }
  if (!result->warning.empty())
    std::fprintf(stderr, "lift-calibrate: warning: %s\n", result->warning.c_str());
  if (arguments.json) {
    std::cout << ToJson(*result).dump(2) << "\n";
  } else {
    PrintTable(*result);
  }
  return 0;
}
