// What every command of lift-eval begins with: opened weights, their tokenizer, a backend, a text.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cpu/cpu_backend.h"
#include "server/model/weights.h"
#include "server/tokenizer/tokenizer.h"

namespace lift::eval {

// The tokenizer stored with the model, in a lifted file or a checkpoint.
absl::StatusOr<std::shared_ptr<const Tokenizer>> LoadTokenizer(const Weights& weights);

// INVALID_ARGUMENT naming the variants there are.
absl::StatusOr<int> FindVariant(const Weights& weights, const std::string& name);

// The ids that end an answer in the server.
std::vector<int32_t> StopIds(const TokenizerSpec& spec);

absl::StatusOr<std::string> ReadText(const std::string& path);

// Threads and backend; one user at a time.
struct Device {
  explicit Device(int threads)
      : pool(threads > 0 ? threads : AvailableCores()), backend(MakeCpuBackend(pool)) {}
  ThreadPool pool;
  std::unique_ptr<Backend> backend;
};

}  // namespace lift::eval
