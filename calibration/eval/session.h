// What every command of lift-eval begins with: opened weights, their tokenizer, a backend, a text.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/devices.h"
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
  // threads: 0 = every core; name: a value of --device. Says on stderr what MakeDevice notes.
  static absl::StatusOr<std::unique_ptr<Device>> Make(int threads, const std::string& name);
  ThreadPool pool;
  std::unique_ptr<Backend> backend;

 private:
  explicit Device(int threads) : pool(threads > 0 ? threads : AvailableCores()) {}
};

}  // namespace lift::eval
