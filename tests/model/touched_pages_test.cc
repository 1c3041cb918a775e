// What a step says it read, beside what the kernel saw it touch: the pages of the lifted file's
// mapping whose accessed bit is set after one step.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <fstream>
#include <span>
#include <string>

#include "tests/model/random_model.h"
#include "tests/model/runner.h"

namespace lift {
namespace {

// Clears the accessed bits of the pages that hold `bytes`, a read-only mapping. A core does not set
// them again for pages that it has in its TLB; taking the right to read away and back empties that.
bool ForgetAccesses(std::span<const std::byte> bytes) {
  if (!(std::ofstream("/proc/self/clear_refs") << "1\n")) return false;
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto first = reinterpret_cast<uintptr_t>(bytes.data()) / page * page;
  const size_t size = reinterpret_cast<uintptr_t>(bytes.data()) + bytes.size() - first;
  void* const pages = reinterpret_cast<void*>(first);
  return ::mprotect(pages, size, PROT_NONE) == 0 && ::mprotect(pages, size, PROT_READ) == 0;
}

// Bytes of the pages accessed since, of the mappings that hold `bytes`; negative: the kernel does
// not tell.
double AccessedBytes(std::span<const std::byte> bytes) {
  std::ifstream maps("/proc/self/smaps");
  const auto first = reinterpret_cast<uintptr_t>(bytes.data()), last = first + bytes.size();
  bool ours = false;
  double accessed = -1;
  for (std::string line; std::getline(maps, line);) {
    unsigned long begin = 0, end = 0, kilobytes = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx ", &begin, &end) == 2)
      ours = begin < last && first < end;
    if (ours && std::sscanf(line.c_str(), "Referenced: %lu kB", &kilobytes) == 1)
      accessed = std::max(accessed, 0.0) + 1024.0 * static_cast<double>(kilobytes);
  }
  return accessed;
}

class TouchedPages : public ::testing::Test {
 protected:
  // Experts large beside a page and beside everything else.
  static testing::RandomModelOptions Experts() {
    testing::RandomModelOptions options;
    options.config = testing::FamilyConfig("mixtral");
    options.config.hidden_size = 256;
    options.config.intermediate_size = 1024;
    options.config.head_dim = 64, options.config.rope.dimension = 64;
    options.config.num_experts = 8, options.config.experts_per_token = 2;
    options.full = false;
    return options;
  }
};

TEST_F(TouchedPages, OnlyTheExpertsThatTokensChoseAreRead) {
  auto file = testing::RandomModel(Experts()).Write();
  ASSERT_TRUE(file.ok()) << file.status();
  testing::TestModel test(*Weights::FromLiftedFile(*file), 1);
  ASSERT_TRUE(test.status.ok()) << test.status;
  const std::vector<int32_t> blocks[] = {test.Blocks(0, 2), test.Blocks(1, 2)};
  const int32_t tokens[] = {3, 23, 43, 63, 83};
  std::vector<float> logits;
  // What is said besides planes (norms, routers, row scales) is not in the mapping or is small
  // beside an expert; each run of planes may begin and end inside a page.
  const auto expect = [&](std::span<const SequenceChunk> chunks, double part) {
    test.model->Step(chunks, logits);  // every page of it is mapped
    if (!ForgetAccesses((*file)->planes()))
      GTEST_SKIP() << "the kernel has no /proc/self/clear_refs";
    const auto said = static_cast<double>(test.model->Step(chunks, logits).weight_bytes_read);
    const double accessed = AccessedBytes((*file)->planes());
    if (accessed <= 0) GTEST_SKIP() << "the kernel does not report accessed pages";
    EXPECT_NEAR(accessed / said, 1, 0.1) << said;
    const auto& variant = test.model->variants()[static_cast<size_t>(chunks[0].variant)];
    EXPECT_LT(said, part * static_cast<double>(variant.bytes));
  };
  for (int variant = 0; variant < 3; ++variant) {
    for (const int32_t& token : tokens) {
      const SequenceChunk one{{&token, 1}, 0, blocks[0], variant};
      expect({&one, 1}, 0.35);
    }
    const SequenceChunk two[] = {{{tokens, 1}, 0, blocks[0], variant},
                                 {{tokens + 1, 1}, 0, blocks[1], variant}};
    expect(two, 0.6);
  }
}

}  // namespace
}  // namespace lift
