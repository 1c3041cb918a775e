// lift-code-search: how the tables of codes.cc were found. Prints each improvement as a line of
// that file.
#include <bit>
#include <cstdio>

#include "CLI/CLI.hpp"
#include "calibration/code_search.h"
#include "calibration/codes.h"

namespace {

void PrintCode(const lift::LiftCode& code, double error) {
  const int streams = code.streams();
  std::printf("// error %.5f, %.2f dB over the limit\nMake(\"%d+%dp\", %d, {", error,
              10 * std::log10(error * std::pow(4.0, code.stored)), code.stored, code.derived,
              code.stored);
  for (size_t k = 0; k < code.masks.size(); ++k) {
    std::printf("%s{", k > 0 ? ", " : "");
    bool first = true;
    for (uint64_t mask = code.masks[k]; mask != 0; mask &= mask - 1) {
      const int bit = std::countr_zero(mask);
      std::printf("%s{%d, %d}", first ? "" : ", ", bit / streams, bit % streams);
      first = false;
    }
    std::printf("}");
  }
  std::printf("}, {");
  for (size_t i = 0; i < code.taps.size(); ++i)
    std::printf("%s%.3ff", i > 0 ? ", " : "", static_cast<double>(code.taps[i]));
  std::printf("}),\n");
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{
      "Searches lifting codes: random tables (or neighbours of a shipped one) are trained by "
      "alternating beam search and least squares; each improvement, judged on samples that no "
      "training saw, is printed as a line of calibration/codes.cc."};
  lift::CodeSearchOptions options;
  std::string start;
  int threads = 0;
  app.add_option("--stored", options.stored, "stored bits a step")->check(CLI::Range(1, 4));
  app.add_option("--derived", options.derived, "parity streams")->check(CLI::Range(0, 3));
  app.add_option("--steps", options.steps, "steps of the window")->check(CLI::Range(2, 17));
  app.add_option("--seed", options.seed, "same seed, same candidates");
  app.add_option("--seconds", options.seconds, "time to search");
  app.add_option("--beam", options.beam, "survivors while screening");
  app.add_option("--final-beam", options.final_beam, "survivors of the verdict");
  app.add_option("--start", start, "name of a shipped code to improve");
  app.add_option("--threads", threads, "worker threads (default: all cores)");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  if ((options.stored + options.derived) * (options.steps - 1) > 32 ||
      options.stored + options.derived > 5) {
    std::fprintf(stderr,
                 "lift-code-search: (stored + derived) x (steps - 1) is at most 32 and stored + "
                 "derived at most 5\n");
    return 2;
  }
  lift::LiftCode base;
  if (!start.empty()) {
    const auto found = lift::FindCode(start);
    if (!found.ok()) {
      std::fprintf(stderr, "lift-code-search: %s\n", std::string(found.status().message()).c_str());
      return 2;
    }
    base = *found;
    // A longer window than the shipped one starts with taps of zero.
    if (options.steps > base.steps) {
      base.taps.resize(static_cast<size_t>(options.steps * base.streams()), 0.0f);
      base.steps = options.steps;
    }
    options.start = &base;
  }
  lift::ThreadPool pool(threads > 0 ? threads : lift::AvailableCores());
  lift::SearchCodes(options, pool, PrintCode);
  return 0;
}
