// Runs a fuzz target without libFuzzer: all seeds as they are, then a fixed number of mutated ones.
// Every mutated input depends on its index alone, so a failure comes back with --only.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "tests/fuzz/fuzz_target.h"

namespace {

namespace fs = std::filesystem;

std::string ReadAll(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// Files, and the files of folders, in the order of their names.
std::vector<std::string> ReadSeeds(const std::vector<std::string>& paths) {
  std::vector<fs::path> files;
  for (const std::string& path : paths) {
    if (!fs::is_directory(path)) {
      files.push_back(path);
      continue;
    }
    for (const auto& entry : fs::directory_iterator(path)) {
      if (entry.is_regular_file()) files.push_back(entry.path());
    }
  }
  std::sort(files.begin(), files.end());
  std::vector<std::string> seeds;
  for (const fs::path& file : files) seeds.push_back(ReadAll(file));
  return seeds;
}

class Mutator {
 public:
  Mutator(const std::vector<std::string>& seeds, uint64_t index)
      : seeds_(seeds), random_(index * 0x9E3779B97F4A7C15u + 1) {}

  std::string Make() {
    std::string input = seeds_[Below(seeds_.size())];
    for (size_t changes = 1 + Below(4); changes > 0; --changes) Change(input);
    return input;
  }

 private:
  size_t Below(size_t limit) { return static_cast<size_t>(random_() % limit); }

  void Change(std::string& input) {
    if (input.empty()) input = "x";
    const size_t at = Below(input.size());
    switch (Below(7)) {
      case 0:
        input[at] = static_cast<char>(input[at] ^ (1 << Below(8)));
        break;
      case 1:
        input[at] = static_cast<char>(random_());
        break;
      case 2:
        input.resize(at);
        break;
      case 3:
        OverwriteNumber(input, at);
        break;
      case 4: {  // the rest comes from another seed
        const std::string& other = seeds_[Below(seeds_.size())];
        input.replace(at, std::string::npos, other, std::min(at, other.size()), std::string::npos);
        break;
      }
      case 5:
        input.insert(at, input.substr(Below(input.size()), 1 + Below(32)));
        break;
      default:
        input.erase(at, 1 + Below(8));
        break;
    }
  }

  // Counts and offsets at the edges of their types, and decimal digits for texts.
  void OverwriteNumber(std::string& input, size_t at) {
    if (input[at] >= '0' && input[at] <= '9') {
      static constexpr const char* kNumbers[] = {
          "-1", "0", "4294967296", "18446744073709551615", "1e308", "0.5", "null"};
      input.replace(at, 1, kNumbers[Below(std::size(kNumbers))]);
      return;
    }
    static constexpr uint64_t kValues[] = {0,
                                           1,
                                           0x7F,
                                           0xFF,
                                           0x7FFFFFFF,
                                           0xFFFFFFFF,
                                           uint64_t{1} << 32,
                                           uint64_t{1} << 62,
                                           ~uint64_t{0} >> 1,
                                           ~uint64_t{0} - 31,
                                           ~uint64_t{0}};
    const uint64_t value = kValues[Below(std::size(kValues))];
    const size_t width = std::min<size_t>(size_t{1} << Below(4), input.size() - at);
    std::memcpy(input.data() + at, &value, width);
  }

  const std::vector<std::string>& seeds_;
  std::mt19937_64 random_;
};

// A fresh exact-size allocation, so that the address sanitizer sees reads past the end.
void Run(const std::string& input) {
  const std::vector<uint8_t> bytes(input.begin(), input.end());
  LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "Runs one fuzz target over seeds and over mutated seeds. It ends early only by a crash.");
  std::vector<std::string> paths;
  uint64_t mutations = 2000;
  int64_t only = -1;
  std::string save;
  bool trace = false;
  app.add_option("seeds", paths, "seed files, and folders of them")
      ->required()
      ->check(CLI::ExistingPath);
  app.add_option("--mutations", mutations, "how many mutated inputs to run")->capture_default_str();
  app.add_option("--only", only, "run this mutated input alone");
  app.add_option("--save", save, "with --only: write the input to this file first");
  app.add_flag("--trace", trace, "print each index before it runs, to find the one that crashes");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  const std::vector<std::string> seeds = ReadSeeds(paths);
  if (seeds.empty()) {
    std::fprintf(stderr, "no seeds in the paths given\n");
    return 2;
  }
  if (only >= 0) {
    const std::string input = Mutator(seeds, static_cast<uint64_t>(only)).Make();
    if (!save.empty()) std::ofstream(save, std::ios::binary) << input;
    Run(input);
    return 0;
  }
  for (const std::string& seed : seeds) Run(seed);
  for (uint64_t i = 0; i < mutations; ++i) {
    if (trace) std::fprintf(stderr, "%llu\n", static_cast<unsigned long long>(i));
    Run(Mutator(seeds, i).Make());
  }
  std::printf("%zu seeds and %llu mutated inputs\n", seeds.size(),
              static_cast<unsigned long long>(mutations));
  return 0;
}
