// Token sequences as chunks of one step over their own state blocks.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "server/model/step_model.h"

namespace lift {

// Owns the tokens and block tables that its chunks point to. Not copyable: the chunks borrow.
class SampleBatch {
 public:
  SampleBatch(std::span<const std::vector<int32_t>> samples, int64_t block_tokens)
      : samples_(samples.begin(), samples.end()) {
    tables_.resize(samples_.size());
    for (size_t i = 0; i < samples_.size(); ++i) {
      const int64_t length = static_cast<int64_t>(samples_[i].size());
      for (int64_t b = 0; b < (length + block_tokens - 1) / block_tokens; ++b)
        tables_[i].push_back(static_cast<int32_t>(blocks_++));
      chunks_.push_back({samples_[i], 0, tables_[i], 0, SequenceChunk::Logits::kNone});
      tokens_ += length;
    }
  }
  SampleBatch(const SampleBatch&) = delete;
  SampleBatch& operator=(const SampleBatch&) = delete;

  std::span<const SequenceChunk> chunks() const { return chunks_; }
  int64_t tokens() const { return tokens_; }
  int64_t blocks() const { return blocks_; }

 private:
  std::vector<std::vector<int32_t>> samples_;
  std::vector<std::vector<int32_t>> tables_;
  std::vector<SequenceChunk> chunks_;
  int64_t tokens_ = 0, blocks_ = 0;
};

}  // namespace lift
