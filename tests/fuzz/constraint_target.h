// What the fuzz targets of constraints share.
#pragma once

#include <algorithm>
#include <vector>

#include "kernels/base/check.h"
#include "server/constraint/constraint.h"
#include "server/tokenizer/huggingface_spec.h"
#include "server/tokenizer/utf8.h"
#include "tests/fuzz/fuzz_target.h"

namespace lift {

inline const std::shared_ptr<const Tokenizer>& FuzzTokenizer() {
  static const std::shared_ptr<const Tokenizer> tokenizer = [] {
    const auto spec = LoadHuggingFaceTokenizer(LIFT_TEST_DATA "/tiny/tiny-bias");
    LIFT_CHECK(spec.ok());
    return Tokenizer::Create(*spec).value();
  }();
  return tokenizer;
}

// Follows the masks: there is a token in every state that is not complete, and what is complete is
// UTF-8.
inline void CompileAndAnswer(const ConstraintSource::Result& source) {
  if (!source.ok()) {
    LIFT_CHECK(source.status().code() == absl::StatusCode::kInvalidArgument);
    return;
  }
  static const TokenTrie trie(*FuzzTokenizer());
  const auto compiled = CompiledConstraint::Compile(**source, FuzzTokenizer(), trie);
  if (!compiled.ok()) {
    LIFT_CHECK(compiled.status().code() == absl::StatusCode::kInvalidArgument);
    return;
  }
  const CompiledConstraint& constraint = **compiled;
  for (uint32_t seed = 1; seed <= 4; ++seed) {
    uint32_t random = seed;
    int32_t state = constraint.start();
    std::string text;
    for (int i = 0; i < 40 && !constraint.Complete(state); ++i) {
      std::vector<int32_t> allowed;
      const auto mask = constraint.Allowed(state);
      for (size_t t = 0; t < mask.size() * 64; ++t) {
        if ((mask[t / 64] >> (t % 64) & 1) != 0) allowed.push_back(static_cast<int32_t>(t));
      }
      LIFT_CHECK(!allowed.empty());
      random = random * 1664525 + 1013904223;
      const int32_t token = allowed[(random >> 8) % allowed.size()];
      text += FuzzTokenizer()->TokenBytes(token);
      state = constraint.Advance(state, token);
      LIFT_CHECK(state != CompiledConstraint::kDead);
    }
    if (constraint.Accepts(state)) LIFT_CHECK(FindInvalidUtf8(text) == std::string_view::npos);
  }
}

}  // namespace lift
