// Vocabularies and walks for the tests of constraints.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/base/check.h"
#include "server/constraint/constraint.h"
#include "server/tokenizer/huggingface_spec.h"
#include "server/tokenizer/utf8.h"

namespace lift {

// One special end token (id 0) and these strings of bytes.
inline std::shared_ptr<const Tokenizer> TokenizerOf(const std::vector<std::string>& texts) {
  TokenizerSpec spec;
  spec.type = "byte_level_bpe";
  spec.tokens.push_back("<|end|>");
  for (const std::string& text : texts) spec.tokens.push_back(ToByteAlphabet(text));
  spec.added_tokens.push_back({.id = 0, .content = "<|end|>", .special = true});
  spec.eos_id = 0;
  spec.eos_ids = {0};
  auto tokenizer = Tokenizer::Create(spec);
  LIFT_CHECK(tokenizer.ok());
  return *std::move(tokenizer);
}

// All bytes, and tokens that cut words, JSON and UTF-8 characters anywhere.
inline std::shared_ptr<const Tokenizer> MixedTokenizer() {
  std::vector<std::string> texts;
  for (int byte = 0; byte < 256; ++byte) texts.push_back(std::string(1, static_cast<char>(byte)));
  for (const char* text :
       {"ab",           "abc",    "bc",   "aa",  "bbb",      "cab",   "\"}",   "{\"",      "\":",
        "\",\"",        "\": \"", "10",   "23",  "-1",       ".5",    "true",  "tru",      "ue",
        "null",         "[[",     "]]",   "],",  ", ",       "x\xC3", "\xA9x", "\xE2\x82", "\xAC",
        "\xF0\x9F\x98", "\x80\"", "\\\"", "\\n", "aaaaaaaa", " and",  "é",     "日本"}) {
    texts.push_back(text);
  }
  return TokenizerOf(texts);
}

inline std::shared_ptr<const Tokenizer> TinyTokenizer() {
  const auto spec = LoadHuggingFaceTokenizer(LIFT_TEST_DATA "/tiny/tiny-gqa");
  LIFT_CHECK(spec.ok());
  return Tokenizer::Create(*spec).value();
}

using Compiled = absl::StatusOr<std::shared_ptr<const CompiledConstraint>>;
inline Compiled CompileFor(const std::shared_ptr<const Tokenizer>& tokenizer,
                           const ConstraintSource::Result& source) {
  if (!source.ok()) return source.status();
  return CompiledConstraint::Compile(**source, tokenizer, TokenTrie(*tokenizer));
}

inline std::vector<int32_t> AllowedTokens(const CompiledConstraint& constraint, int32_t state) {
  std::vector<int32_t> ids;
  const auto mask = constraint.Allowed(state);
  for (size_t i = 0; i < mask.size() * 64; ++i) {
    if ((mask[i / 64] >> (i % 64) & 1) != 0) ids.push_back(static_cast<int32_t>(i));
  }
  return ids;
}

// A text made of random tokens that the masks allow; ends in an accepting state or, if it gets
// longer than `most` tokens, with nullopt.
inline std::optional<std::string> RandomText(const CompiledConstraint& constraint,
                                             const Tokenizer& tokenizer, std::mt19937_64& rng,
                                             int most) {
  std::string text;
  int32_t state = constraint.start();
  for (int i = 0; i < most; ++i) {
    if (constraint.Accepts(state) && (constraint.Complete(state) || rng() % 4 == 0)) return text;
    const std::vector<int32_t> allowed = AllowedTokens(constraint, state);
    LIFT_CHECK(!allowed.empty());  // else a dead end
    const int32_t token = allowed[rng() % allowed.size()];
    text += tokenizer.TokenBytes(token);
    state = constraint.Advance(state, token);
    LIFT_CHECK(state != CompiledConstraint::kDead);
  }
  return std::nullopt;
}

// Whether the text, cut into single bytes, is one the constraint accepts.
inline bool Accepts(const CompiledConstraint& constraint, const Tokenizer& tokenizer,
                    std::string_view text) {
  int32_t state = constraint.start();
  for (const char c : text) {
    int32_t byte_token = -1;
    for (int32_t id = 0; id < tokenizer.vocab_size() && byte_token < 0; ++id) {
      if (tokenizer.TokenBytes(id) == std::string_view(&c, 1)) byte_token = id;
    }
    LIFT_CHECK(byte_token >= 0);
    state = constraint.Advance(state, byte_token);
    if (state == CompiledConstraint::kDead) return false;
  }
  return constraint.Accepts(state);
}

}  // namespace lift
