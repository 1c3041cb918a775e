// Runs token sequences through a Transformer, however they are cut into steps.
#pragma once

#include <cstdint>
#include <memory>
#include <numeric>
#include <span>
#include <vector>

#include "kernels/base/check.h"
#include "kernels/base/thread_pool.h"
#if defined(LIFT_TEST_CUDA)
#include "kernels/cuda/cuda_backend.h"
#else
#include "kernels/cpu/cpu_backend.h"
#endif
#include "server/model/transformer.h"

namespace lift::testing {

// The device these tests are compiled for: the CPU, or with LIFT_TEST_CUDA a GPU or its emulator.
#if defined(LIFT_TEST_CUDA)
inline std::unique_ptr<Backend> MakeTestBackend(ThreadPool&) {
  auto made = MakeCudaBackend();
  LIFT_CHECK(made.ok());  // where there is none, skip_without_gpu.cc has skipped the test
  return *std::move(made);
}
#else
inline std::unique_ptr<Backend> MakeTestBackend(ThreadPool& pool) { return MakeCpuBackend(pool); }
#endif

// A model with a pool of its own. Sequence s uses blocks s, s + stride, ...: interleaved on
// purpose.
struct TestModel {
  explicit TestModel(std::shared_ptr<const Weights> weights, int threads = 1,
                     Transformer::Options options = {})
      : pool(threads), backend(MakeTestBackend(pool)), weights(weights) {
    auto made = Transformer::Create(weights, *backend, options);
    if (made.ok()) model = *std::move(made);
    status = made.status();
  }
  // Blocks of sequence `s` of `sequences`.
  std::vector<int32_t> Blocks(int64_t s, int64_t sequences) const {
    std::vector<int32_t> blocks;
    for (int64_t b = s; b < model->num_blocks(); b += sequences)
      blocks.push_back(static_cast<int32_t>(b));
    return blocks;
  }
  // Logits of every token of one sequence, fed in steps of `chunk` tokens at `variant`; the first
  // `prompt` of them as a prompt, in steps of their own.
  std::vector<float> Logits(std::span<const int32_t> tokens, size_t chunk, int variant,
                            size_t prompt = 0) {
    std::vector<float> all, logits;
    const std::vector<int32_t> blocks = Blocks(0, 1);
    for (size_t at = 0; at < tokens.size();) {
      const size_t end = at < prompt ? prompt : tokens.size();
      const auto part = tokens.subspan(at, std::min(chunk, end - at));
      const SequenceChunk one{part,    static_cast<int64_t>(at),    blocks,
                              variant, SequenceChunk::Logits::kAll, at < prompt};
      at += part.size();
      model->Step({&one, 1}, logits);
      all.insert(all.end(), logits.begin(), logits.end());
    }
    return all;
  }

  ThreadPool pool;
  std::unique_ptr<Backend> backend;
  std::shared_ptr<const Weights> weights;
  std::unique_ptr<Transformer> model;
  absl::Status status;
};

// NaN counts as infinitely far.
inline double MaxDifference(std::span<const float> a, std::span<const float> b) {
  if (a.size() != b.size()) return std::numeric_limits<double>::infinity();
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double difference = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    if (!(difference <= worst))
      worst = std::isnan(difference) ? std::numeric_limits<double>::infinity() : difference;
  }
  return worst;
}

}  // namespace lift::testing
