// lift-bench: how fast this machine runs a model, or the kernels alone, against a loop that reads.
#include <sys/resource.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>

#include "kernels/devices.h"
#include "server/model/weights.h"
#include "server/tuning/cpu_tuning.h"
#include "tests/bench/bench_codes.h"
#include "tests/bench/bench_constraint.h"
#include "tests/bench/bench_kernels.h"
#include "tests/bench/bench_model.h"
#include "tests/bench/bench_scan.h"
#include "tests/bench/bench_speculation.h"
#include "tests/bench/bench_tune.h"
#include "tests/bench/capacity/capacity.h"
#include "tests/bench/read_loop.h"
#include "tests/bench/roofline.h"
#include "tests/bench/serve/serve.h"
#include "tests/bench/synthetic.h"

namespace lift::bench {
namespace {

constexpr int kWorkFailed = 1, kWrongInput = 2;

struct Flags {
  std::string model, synthetic, save, isa = "auto", device = "auto", cpu_tuning = "auto", plot;
  std::string kv_cache = std::string(KvFormatName(kDefaultKvFormat));
  std::vector<std::string> variants;
  std::vector<int64_t> batches = {1, 2, 4, 8}, contexts = {128}, prefills = {128, 512};
  std::vector<int64_t> tokens = {1, 2, 4, 8, 512};
  int64_t rows = 4096, cols = 4096;
  int threads = 0;
  double seconds = 1;
  bool json = false, kernels = false, plain = false, profile = false, mixed = false;
};

void DeclareFlags(CLI::App& app, Flags& flags) {
  app.add_option("--model", flags.model, "lifted file, GGUF or Hugging Face folder");
  app.add_option(
      "--synthetic", flags.synthetic,
      "random planes of a known shape, SHAPE:BITS[,BITS...]: llama-1b, llama-3b, llama-7b,\n"
      "llama-13b, smollm2-135m or llama-tiny, e.g. llama-1b:2,3,4 (needs disk for the planes in "
      "$TMPDIR or "
      "--save)");
  app.add_flag("--plain", flags.plain, "with --synthetic: codes without parity streams");
  app.add_option("--save", flags.save, "with --synthetic: keep the lifted file at this path");
  app.add_option("--variant", flags.variants, "variants to decode with (default: all)")
      ->delimiter(',');
  app.add_option("--batch", flags.batches, "sequences decoded at once")
      ->delimiter(',')
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  app.add_option("--context", flags.contexts, "tokens each sequence already holds")
      ->delimiter(',')
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  app.add_option("--kv-cache", flags.kv_cache, "how attention state is kept")
      ->check(CLI::IsMember({"f32", "f16", "bf16", "int8"}))
      ->capture_default_str();
  app.add_flag("--mixed", flags.mixed,
               "also batches whose rows take turns through the variants (\"mixed\")");
  app.add_option("--prefill", flags.prefills, "prompt lengths, read with the finest variant")
      ->delimiter(',')
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--threads", flags.threads, "threads (default: all cores of this process)")
      ->check(CLI::Range(1, 1024));
  app.add_option("--device", flags.device, "auto, cpu or cuda")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}))
      ->capture_default_str();
  app.add_option("--isa", flags.isa,
                 "auto, portable, avx2, avx-vnni, avx512-vnni,\nneon-dotprod or neon-i8mm")
      ->capture_default_str();
  app.add_option("--cpu-tuning", flags.cpu_tuning,
                 "auto (what `lift-bench tune` stored), default, measure or a file")
      ->capture_default_str();
  app.add_option("--seconds", flags.seconds, "time spent on each measurement")
      ->check(CLI::Range(0.01, 600.0))
      ->capture_default_str();
  app.add_flag("--kernels", flags.kernels,
               "no model: sign planes, dense layers and attention on random data");
  app.add_option("--rows", flags.rows, "with --kernels: outputs of the layer")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--cols", flags.cols, "with --kernels: inputs of the layer")
      ->check(CLI::Range(1, 1 << 17))
      ->capture_default_str();
  app.add_option("--tokens", flags.tokens, "with --kernels: tokens at once")
      ->delimiter(',')
      ->check(CLI::Range(1, 1 << 16))
      ->capture_default_str();
  app.add_flag("--profile", flags.profile,
               "phases of one decode step of the first variant, batch and context: bytes, floor at "
               "the\nread loop's speed, time");
  app.add_option("--plot", flags.plot, "with --profile: also draw the step's roofline (SVG) here");
  app.add_flag("--json", flags.json, "print one JSON object on stdout");
  app.footer(
      "bandwidth_fraction: weight bytes read in a second / bytes a second of a loop that only "
      "reads\n"
      "memory, on the same threads. bytes_per_token: weight bytes of one step / its batch.");
}

int Fail(int code, absl::string_view message) {
  std::fprintf(stderr, "lift-bench: %.*s\n", static_cast<int>(message.size()), message.data());
  return code;
}

nlohmann::json ToJson(const KernelReport& report) {
  nlohmann::json out;
  for (const LiftedPoint& p : report.lifted) {
    out["lifted"].push_back({{"stored", p.stored},
                             {"derived", p.derived},
                             {"tokens", p.tokens},
                             {"seconds", p.seconds},
                             {"lift_seconds", p.lift_seconds},
                             {"plane_bytes_per_second", p.plane_bytes_per_second},
                             {"bandwidth_fraction", p.bandwidth_fraction},
                             {"multiply_adds_per_second", p.multiply_adds_per_second}});
  }
  for (const DensePoint& p : report.dense) {
    out["dense"].push_back({{"tokens", p.tokens}, {"seconds", p.seconds}, {"flops", p.flops}});
  }
  for (const AttentionPoint& p : report.attention) {
    out["attention"].push_back({{"format", p.format},
                                {"tokens", p.tokens},
                                {"context", p.context},
                                {"seconds", p.seconds},
                                {"bandwidth_fraction", p.bandwidth_fraction}});
  }
  return out;
}

nlohmann::json ToJson(const ModelReport& report) {
  nlohmann::json out = {{"decode", nlohmann::json::array()},
                        {"prefill", nlohmann::json::array()},
                        {"predicted_resident_bytes", report.predicted_resident_bytes},
                        {"resident_bytes", report.resident_bytes}};
  for (const DecodePoint& p : report.decode) {
    out["decode"].push_back({{"variant", p.variant},
                             {"batch", p.batch},
                             {"context", p.context},
                             {"tokens_per_second", p.tokens_per_second},
                             {"bytes_per_token", p.bytes_per_token},
                             {"bandwidth_fraction", p.bandwidth_fraction}});
  }
  for (const PrefillPoint& p : report.prefill) {
    out["prefill"].push_back({{"tokens", p.tokens}, {"tokens_per_second", p.tokens_per_second}});
  }
  return out;
}

void PrintTable(const KernelReport& report, double) {
  std::printf("%-8s %7s %12s %10s %10s %10s %12s\n", "planes", "tokens", "us", "lift us", "GB/s",
              "of read", "Gmac/s");
  for (const LiftedPoint& p : report.lifted) {
    const std::string code = CodeName({p.stored, p.derived});
    std::printf("%-8s %7lld %12.1f %10.1f %10.2f %9.0f%% %12.1f\n", code.c_str(),
                static_cast<long long>(p.tokens), p.seconds * 1e6, p.lift_seconds * 1e6,
                p.plane_bytes_per_second * 1e-9, p.bandwidth_fraction * 100,
                p.multiply_adds_per_second * 1e-9);
  }
  std::printf("\n%-8s %7s %12s %10s\n", "dense", "tokens", "us", "GFLOP/s");
  for (const DensePoint& p : report.dense) {
    std::printf("%-8s %7lld %12.1f %10.1f\n", "f32", static_cast<long long>(p.tokens),
                p.seconds * 1e6, p.flops * 1e-9);
  }
  std::printf("\n%-8s %9s %7s %12s %10s\n", "attend", "after", "tokens", "us", "of read");
  for (const AttentionPoint& p : report.attention) {
    std::printf("%-8s %9lld %7lld %12.1f %9.0f%%\n", p.format.c_str(),
                static_cast<long long>(p.context), static_cast<long long>(p.tokens),
                p.seconds * 1e6, p.bandwidth_fraction * 100);
  }
}

nlohmann::json ToJson(const std::vector<Phase>& phases) {
  nlohmann::json out;
  for (const Phase& p : phases) {
    out["profile"].push_back({{"phase", p.name},
                              {"calls", p.calls},
                              {"bytes", p.bytes},
                              {"seconds", p.seconds},
                              {"multiply_adds", p.multiply_adds}});
  }
  return out;
}

void PrintTable(const std::vector<Phase>& phases, double read_bandwidth) {
  double bytes = 0, seconds = 0;
  for (const Phase& p : phases) bytes += p.bytes, seconds += p.seconds;
  std::printf("%-22s %6s %10s %10s %10s %8s %8s\n", "phase of a step", "calls", "MB", "floor ms",
              "ms", "of step", "of read");
  const auto row = [&](const std::string& name, int64_t calls, double b, double s) {
    const double floor = b / read_bandwidth;
    std::printf("%-22s %6lld %10.2f %10.3f %10.3f %7.1f%% %7.0f%%\n", name.c_str(),
                static_cast<long long>(calls), b * 1e-6, floor * 1e3, s * 1e3, s / seconds * 100,
                floor / s * 100);
  };
  for (const Phase& p : phases) row(p.name, p.calls, p.bytes, p.seconds);
  row("whole step", 1, bytes, seconds);
}

void PrintTable(const ModelReport& report, double) {
  std::printf("%-12s %6s %8s %12s %14s %10s\n", "variant", "batch", "context", "tokens/s",
              "bytes/token", "of read");
  for (const DecodePoint& p : report.decode) {
    std::printf("%-12s %6lld %8lld %12.1f %14.0f %9.0f%%\n", p.variant.c_str(),
                static_cast<long long>(p.batch), static_cast<long long>(p.context),
                p.tokens_per_second, p.bytes_per_token, p.bandwidth_fraction * 100);
  }
  std::printf("\n%-12s %12s\n", "prompt", "tokens/s");
  for (const PrefillPoint& p : report.prefill) {
    std::printf("%-12lld %12.1f\n", static_cast<long long>(p.tokens), p.tokens_per_second);
  }
}

template <typename Report>
int Print(const Flags& flags, const Report& report, double read_bandwidth, const Backend& backend) {
  if (flags.json) {
    nlohmann::json out = ToJson(report);
    out["read_bandwidth_bytes_per_second"] = read_bandwidth;
    out["device"] = backend.description();
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    out["peak_rss_bytes"] = int64_t{usage.ru_maxrss} << 10;
    std::printf("%s\n", out.dump().c_str());
  } else {
    std::printf("%s; read loop %.1f GB/s\n\n", backend.description().c_str(),
                read_bandwidth * 1e-9);
    PrintTable(report, read_bandwidth);
  }
  return std::fflush(stdout) == 0 ? 0 : kWorkFailed;
}

absl::StatusOr<ModelPlan> PlanFor(const Flags& flags, const Weights& weights) {
  ModelPlan plan;
  plan.batches = flags.batches;
  plan.contexts = flags.contexts;
  plan.prefills = flags.prefills;
  plan.seconds = flags.seconds;
  plan.mixed = flags.mixed;
  plan.kv_format = *ParseKvFormat(flags.kv_cache);
  for (const std::string& name : flags.variants) {
    if (name == "all") continue;
    const int index = weights.FindVariant(name);
    if (index < 0) return absl::InvalidArgumentError("the model has no variant \"" + name + "\"");
    plan.variants.push_back(index);
  }
  if (plan.variants.empty()) {
    plan.variants.resize(weights.variants().size());
    std::iota(plan.variants.begin(), plan.variants.end(), 0);
  }
  return plan;
}

// Opens the model; a synthetic one is written first, and its file forgotten unless it is to be
// kept.
absl::StatusOr<std::shared_ptr<Weights>> OpenModel(const Flags& flags) {
  if (flags.synthetic.empty()) return Weights::Open(flags.model);
  LIFT_ASSIGN_OR_RETURN(const SyntheticSpec spec, ParseSynthetic(flags.synthetic));
  std::string path = flags.save;
  std::error_code error;
  if (path.empty()) {
    const auto folder = std::filesystem::temp_directory_path(error);
    path = (folder / ("lift-bench-" + std::to_string(::getpid()) + ".lift")).string();
  }
  std::fprintf(stderr, "writing %s to %s\n", flags.synthetic.c_str(), path.c_str());
  LIFT_RETURN_IF_ERROR(WriteSynthetic(spec, !flags.plain, path));
  auto weights = Weights::Open(path);
  if (flags.save.empty()) std::filesystem::remove(path, error);
  return weights;
}

int RunModel(const Flags& flags, Backend& backend, ThreadPool& pool) {
  const uint64_t before = ResidentBytes();
  auto weights = OpenModel(flags);
  if (!weights.ok()) return Fail(kWrongInput, weights.status().message());
  auto plan = PlanFor(flags, **weights);
  if (!plan.ok()) return Fail(kWrongInput, plan.status().message());
  const double read_bandwidth = ReadBandwidth(backend, pool);
  if (flags.profile) {
    const auto phases = ProfileDecode(*weights, backend, *plan);
    if (!phases.ok()) return Fail(kWorkFailed, phases.status().message());
    if (!flags.plot.empty()) {
      std::ofstream out(flags.plot);
      out << RooflineSvg(*phases, read_bandwidth, PeakMultiplyAdds(backend, flags.seconds / 8));
      out.close();
      if (!out) return Fail(kWorkFailed, "cannot write the plot " + flags.plot);
    }
    return Print(flags, *phases, read_bandwidth, backend);
  }
  auto report = BenchModel(*weights, backend, read_bandwidth, *plan);
  if (!report.ok()) return Fail(kWorkFailed, report.status().message());
  report->resident_bytes -= std::min(before, report->resident_bytes);
  return Print(flags, *report, read_bandwidth, backend);
}

int Run(const Flags& flags) {
  if (int{flags.kernels} + int{!flags.model.empty()} + int{!flags.synthetic.empty()} != 1) {
    return Fail(kWrongInput, "give one of --model PATH, --synthetic SHAPE:BITS and --kernels");
  }
  if (flags.kernels && flags.profile) {
    return Fail(kWrongInput, "--profile needs a model; leave out --kernels");
  }
  if (!flags.plot.empty() && !flags.profile) {
    return Fail(kWrongInput, "--plot draws what --profile measures; give both");
  }
  const auto isa = CpuIsaNamed(flags.isa);
  if (!isa || !CpuIsaSupported(*isa)) {
    return Fail(kWrongInput, "this machine has no instruction set \"" + flags.isa + "\"");
  }
  ThreadPool pool(flags.threads > 0 ? flags.threads : AvailableCores());
  const ResolvedTuning tuning = ResolveCpuTuning(flags.cpu_tuning, pool, *isa);
  auto choice = MakeDevice(flags.device, pool, *isa, tuning.tuning);
  if (!choice.ok()) return Fail(kWrongInput, std::string(choice.status().message()));
  if (!choice->note.empty()) std::fprintf(stderr, "%s\n", choice->note.c_str());
  const std::unique_ptr<Backend> backend = std::move(choice->backend);
  std::fprintf(stderr, "lift-bench on %s; CPU tuning: %s\n", backend->description().c_str(),
               tuning.note.c_str());
  if (!flags.kernels) return RunModel(flags, *backend, pool);
  if (!backend->host_memory()) {
    return Fail(kWrongInput, "--kernels measures the CPU; on a GPU use --synthetic with --profile");
  }
  const double read_bandwidth = ReadBandwidth(pool);
  const KernelReport report =
      BenchKernels(*backend, read_bandwidth, flags.rows, flags.cols, flags.tokens, flags.seconds);
  return Print(flags, report, read_bandwidth, *backend);
}

}  // namespace
}  // namespace lift::bench

int main(int argc, char** argv) {
#ifdef LIFTSERVE_HAVE_SERVER
  if (argc > 1 && std::string_view(argv[1]) == "serve") {
    return lift::bench::RunServe(argc - 1, argv + 1);
  }
#endif
  CLI::App app{
      "Measures decode and prefill speed of a model by variant, batch and context, beside the\n"
      "memory bandwidth of a plain read loop. `lift-bench serve --help`: load on a running "
      "server.\n"
      "Example: lift-bench --model model.lift --batch 1,8 --context 128,1024 --json"};
  lift::bench::Flags flags;
  lift::bench::DeclareFlags(app, flags);
  const lift::bench::CodesCommand codes(app);
  const lift::bench::ScanCommand scan(app);
  const lift::bench::ConstraintCommand constraint(app);
  const lift::bench::CapacityCommand capacity(app);
  const lift::bench::TuneCommand tune(app);
#ifdef LIFTSERVE_HAVE_SERVER
  const lift::bench::SpeculationCommand speculation(app);
#endif
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : lift::bench::kWrongInput;
  }
  if (codes.selected()) return codes.Run();
  if (scan.selected()) return scan.Run();
  if (constraint.selected()) return constraint.Run();
  if (capacity.selected()) return capacity.Run();
  if (tune.selected()) return tune.Run();
#ifdef LIFTSERVE_HAVE_SERVER
  if (speculation.selected()) return speculation.Run();
#endif
  return lift::bench::Run(flags);
}
