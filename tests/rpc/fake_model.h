// A model without weights: the next token is a function of the variant, the last token and the
// position, so that every test can say what a request must produce whatever else is in the batch.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "server/model/step_model.h"
#include "server/model_info.h"
#include "server/tokenizer/tokenizer.h"

namespace lift::test {

// Byte-level vocabulary: ids 0..255 are the bytes, then the control tokens.
inline constexpr int32_t kImStart = 256, kImEnd = 257, kBos = 258, kVocab = 259;
inline constexpr const char* kChatMl =
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] "
    "+ "
    "'<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' "
    "}}{% endif %}";

// The byte-level alphabet: printable bytes stand for themselves, the others for code points from
// U+0100.
inline std::string ByteLevelCharacter(int byte) {
  const auto printable = [](int b) {
    return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || (b >= 174 && b <= 255);
  };
  int code = byte;
  if (!printable(byte)) {
    code = 256;
    for (int b = 0; b < byte; ++b) code += printable(b) ? 0 : 1;
  }
  if (code < 128) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 63))};
}

inline TokenizerSpec ByteTokenizerSpec() {
  TokenizerSpec spec;
  spec.type = "byte_level_bpe";
  for (int b = 0; b < 256; ++b) spec.tokens.push_back(ByteLevelCharacter(b));
  for (const char* control : {"<|im_start|>", "<|im_end|>", "<s>"}) {
    AddedToken token;
    token.id = static_cast<int32_t>(spec.tokens.size());
    token.content = control;
    token.special = true;
    spec.tokens.push_back(control);
    spec.added_tokens.push_back(token);
  }
  spec.eos_id = kImEnd;
  spec.eos_ids = {kImEnd};
  spec.eos_token = "<|im_end|>";
  spec.bos_id = kBos;
  spec.bos_token = "<s>";
  spec.add_bos = true;
  spec.chat_template = kChatMl;
  return spec;
}

class FakeModel : public StepModel {
 public:
  static constexpr int64_t kBlockTokens = 4;

  FakeModel() {
    for (const auto& [name, lambda, kl] :
         {std::tuple{"coarse", 0.25, 0.5}, {"middle", 0.5, 0.1}, {"fine", 0.75, 0.01}}) {
      LiftedVariant v;
      v.name = name;
      v.lambda = lambda;
      v.bits_per_weight = lambda * 8;
      v.plane_bytes = static_cast<uint64_t>(lambda * 1000000);
      v.bytes = v.plane_bytes + 1000;
      v.kl = kl;
      variants_.push_back(v);
    }
  }
  int64_t vocab_size() const override { return kVocab; }
  int64_t max_context() const override { return 4096; }
  std::span<const LiftedVariant> variants() const override { return variants_; }
  int64_t block_tokens() const override { return kBlockTokens; }
  int64_t num_blocks() const override { return 16384; }
  int64_t bytes_per_block() const override { return 256; }

  // A lower-case letter.
  static int32_t NextToken(int variant, int32_t last, int64_t position) {
    return 'a' + static_cast<int32_t>((last * 7 + position * 3 + variant * 5) % 26);
  }
  // What a request must produce: the first token comes from the prompt, read at the finest variant.
  static std::string Expected(const std::vector<int32_t>& prompt, int variant, int tokens) {
    std::string text;
    int32_t last = prompt.back();
    int64_t position = static_cast<int64_t>(prompt.size()) - 1;
    for (int i = 0; i < tokens; ++i) {
      last = NextToken(i == 0 ? 2 : variant, last, position++);
      text.push_back(static_cast<char>(last));
    }
    return text;
  }

  StepStats Step(std::span<const SequenceChunk> chunks, std::vector<float>& logits) override {
    steps.fetch_add(1);
    std::this_thread::sleep_for(std::chrono::microseconds(step_micros.load()));
    logits.clear();
    for (const SequenceChunk& chunk : chunks) {
      if (chunk.logits == SequenceChunk::Logits::kNone) continue;
      const int64_t position = chunk.position + static_cast<int64_t>(chunk.tokens.size()) - 1;
      const int32_t next = NextToken(chunk.variant, chunk.tokens.back(), position);
      for (int32_t id = 0; id < kVocab; ++id) logits.push_back(id == next ? 10.0f : 0.0f);
    }
    return {};
  }

  std::atomic<int64_t> step_micros{0}, steps{0};

 private:
  std::vector<LiftedVariant> variants_;
};

// What a server tells of it.
inline ModelInfo InfoOf(const FakeModel& model, const std::string& name) {
  ModelInfo info;
  info.name = info.architecture = name;
  info.weights_sha256 = "abc";
  info.max_context = model.max_context();
  info.vocab_size = model.vocab_size();
  for (const LiftedVariant& v : model.variants()) {
    info.variants.push_back({.name = v.name,
                             .lambda = v.lambda,
                             .bits_per_weight = v.bits_per_weight,
                             .bytes = v.bytes,
                             .incremental_bytes = v.bytes - info.resident_bytes,
                             .kl = v.kl});
    info.resident_bytes = v.bytes;
  }
  return info;
}

}  // namespace lift::test
