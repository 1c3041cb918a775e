#include "server/tokenizer/gguf_spec.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "server/tokenizer/huggingface_spec.h"
#include "server/tokenizer/pretokenizer_patterns.h"
#include "server/tokenizer/sentencepiece_file.h"
#include "server/tokenizer/spec_parts.h"

namespace lift {
namespace {

// Values of tokenizer.ggml.token_type.
constexpr int64_t kControl = 3, kUserDefined = 4;

// Control tokens that end a turn, whatever the file's eos_token_id says (files often name only one
// of them).
constexpr std::array<std::string_view, 8> kTurnEnds = {
    "<|im_end|>",      "<|eot_id|>",    "<|eom_id|>",    "<|end|>",
    "<|end_of_text|>", "<|endoftext|>", "<end_of_turn>", "<EOT>"};

absl::StatusOr<int32_t> TokenId(const GgufFile& file, const char* key, size_t vocab) {
  LIFT_ASSIGN_OR_RETURN(const int64_t id, file.GetInt(key, -1));
  if (id == -1 || id == 0xFFFFFFFF) return -1;  // "none" as an unsigned number
  if (id < 0 || id >= static_cast<int64_t>(vocab)) {
    return absl::InvalidArgumentError(
        absl::StrCat(file.name(), ": ", key, " ", id, " is not in the vocabulary"));
  }
  return static_cast<int32_t>(id);
}

absl::Status ReadVocabulary(const GgufFile& file, TokenizerSpec& spec) {
  LIFT_ASSIGN_OR_RETURN(const auto tokens, file.GetStrings("tokenizer.ggml.tokens"));
  spec.tokens.assign(tokens.begin(), tokens.end());
  LIFT_ASSIGN_OR_RETURN(const auto merges, file.GetStrings("tokenizer.ggml.merges"));
  spec.merges.reserve(merges.size());
  for (const std::string_view merge : merges) {
    LIFT_ASSIGN_OR_RETURN(auto pair, ParseMerge(std::string(merge)));
    spec.merges.push_back(std::move(pair));
  }
  if (!file.Has("tokenizer.ggml.token_type")) return absl::OkStatus();
  LIFT_ASSIGN_OR_RETURN(const auto types, file.GetInts("tokenizer.ggml.token_type"));
  if (types.size() != tokens.size()) {
    return absl::InvalidArgumentError(absl::StrCat(file.name(), ": ", types.size(),
                                                   " token types for ", tokens.size(), " tokens"));
  }
  for (size_t i = 0; i < types.size(); ++i) {
    if ((types[i] != kControl && types[i] != kUserDefined) || tokens[i].empty()) continue;
    AddedToken token;
    token.id = static_cast<int32_t>(i);
    token.content = std::string(tokens[i]);
    token.special = types[i] == kControl;
    spec.added_tokens.push_back(std::move(token));
  }
  return absl::OkStatus();
}

absl::Status ReadByteLevel(const GgufFile& file, TokenizerSpec& spec, bool& add_bos) {
  LIFT_ASSIGN_OR_RETURN(const std::string_view pre,
                        file.GetString("tokenizer.ggml.pre", "default"));
  LIFT_ASSIGN_OR_RETURN(PreTokenizerRecipe recipe, PreTokenizerByGgufName(pre));
  spec.type = "byte_level_bpe";
  spec.splits = std::move(recipe.splits);
  spec.ignore_merges = recipe.ignore_merges;
  spec.normalizer = recipe.normalizer;
  add_bos = recipe.add_bos;
  return ReadVocabulary(file, spec);
}

// "llama" (BPE) and "t5" (unigram).
absl::Status ReadSentencePiece(const GgufFile& file, bool unigram, TokenizerSpec& spec) {
  using Kind = SentencePieceSpec::Kind;
  SentencePieceSpec& sp = spec.sentencepiece;
  spec.type = unigram ? "sentencepiece_unigram" : "sentencepiece_bpe";
  LIFT_ASSIGN_OR_RETURN(const auto tokens, file.GetStrings("tokenizer.ggml.tokens"));
  LIFT_ASSIGN_OR_RETURN(sp.scores, file.GetFloats("tokenizer.ggml.scores"));
  LIFT_ASSIGN_OR_RETURN(const auto types, file.GetInts("tokenizer.ggml.token_type"));
  spec.tokens.assign(tokens.begin(), tokens.end());
  if (types.size() != tokens.size() || sp.scores.size() != tokens.size()) {
    return absl::InvalidArgumentError(absl::StrCat(file.name(), ": ", types.size(), " types and ",
                                                   sp.scores.size(), " scores for ", tokens.size(),
                                                   " tokens"));
  }
  for (size_t i = 0; i < types.size(); ++i) {
    if (types[i] < 1 || types[i] > 6 || !(std::abs(sp.scores[i]) <= 1e30f)) {
      return absl::InvalidArgumentError(
          absl::StrCat(file.name(), ": token ", i, " has no known type or no finite score"));
    }
    sp.kinds.push_back(static_cast<Kind>(types[i]));
    if (sp.kinds[i] == Kind::kUnknown) spec.unk_id = static_cast<int32_t>(i);
    sp.byte_fallback = sp.byte_fallback || sp.kinds[i] == Kind::kByte;
  }
  LIFT_ASSIGN_OR_RETURN(sp.add_dummy_prefix, file.GetBool("tokenizer.ggml.add_space_prefix", true));
  LIFT_ASSIGN_OR_RETURN(sp.remove_extra_whitespaces,
                        file.GetBool("tokenizer.ggml.remove_extra_whitespaces", false));
  if (file.Has("tokenizer.ggml.precompiled_charsmap")) {
    LIFT_ASSIGN_OR_RETURN(const auto bytes, file.GetInts("tokenizer.ggml.precompiled_charsmap"));
    for (const int64_t byte : bytes) sp.charsmap += static_cast<char>(byte);
  }
  AddControlTokens(spec);
  return absl::OkStatus();
}

absl::Status ReadSpecialIds(const GgufFile& file, TokenizerSpec& spec) {
  const size_t vocab = spec.tokens.size();
  LIFT_ASSIGN_OR_RETURN(spec.bos_id, TokenId(file, "tokenizer.ggml.bos_token_id", vocab));
  LIFT_ASSIGN_OR_RETURN(spec.eos_id, TokenId(file, "tokenizer.ggml.eos_token_id", vocab));
  LIFT_ASSIGN_OR_RETURN(spec.pad_id, TokenId(file, "tokenizer.ggml.padding_token_id", vocab));
  if (spec.bos_id >= 0) spec.bos_token = spec.tokens[spec.bos_id];
  if (spec.eos_id >= 0) spec.eos_token = spec.tokens[spec.eos_id];
  const auto add_end = [&](int32_t id) {
    if (id >= 0 && std::find(spec.eos_ids.begin(), spec.eos_ids.end(), id) == spec.eos_ids.end())
      spec.eos_ids.push_back(id);
  };
  add_end(spec.eos_id);
  for (const char* key : {"tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"}) {
    LIFT_ASSIGN_OR_RETURN(const int32_t id, TokenId(file, key, vocab));
    add_end(id);
  }
  for (const AddedToken& token : spec.added_tokens) {
    if (token.special &&
        std::find(kTurnEnds.begin(), kTurnEnds.end(), token.content) != kTurnEnds.end())
      add_end(token.id);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TokenizerSpec> ReadGgufTokenizer(const GgufFile& file) {
  LIFT_ASSIGN_OR_RETURN(const std::string_view model, file.GetString("tokenizer.ggml.model"));
  if (model != "gpt2" && model != "llama" && model != "t5") {
    return absl::UnimplementedError(absl::StrCat(
        file.name(), ": tokenizer model \"", std::string(model),
        "\" is not supported; gpt2 (byte-level BPE), llama and t5 (SentencePiece) are"));
  }
  TokenizerSpec spec;
  bool add_bos = model == "llama", add_eos = model == "t5";
  if (model == "gpt2") {
    LIFT_RETURN_IF_ERROR(ReadByteLevel(file, spec, add_bos));
  } else {
    LIFT_RETURN_IF_ERROR(ReadSentencePiece(file, model == "t5", spec));
  }
  LIFT_RETURN_IF_ERROR(ReadSpecialIds(file, spec));
  LIFT_ASSIGN_OR_RETURN(spec.add_bos, file.GetBool("tokenizer.ggml.add_bos_token", add_bos));
  LIFT_ASSIGN_OR_RETURN(spec.add_eos, file.GetBool("tokenizer.ggml.add_eos_token", add_eos));
  spec.add_bos = spec.add_bos && spec.bos_id >= 0;
  spec.add_eos = spec.add_eos && spec.eos_id >= 0;
  LIFT_ASSIGN_OR_RETURN(const std::string_view chat_template,
                        file.GetString("tokenizer.chat_template", ""));
  spec.chat_template = std::string(chat_template);
  LIFT_RETURN_IF_ERROR(ValidateTokenizerSpec(spec));
  return spec;
}

absl::StatusOr<TokenizerSpec> LoadTokenizerSpec(const Checkpoint& checkpoint) {
  if (const GgufFile* file = checkpoint.gguf(); file != nullptr) return ReadGgufTokenizer(*file);
  if (const auto folder = checkpoint.folder()) return LoadHuggingFaceTokenizer(*folder);
  return absl::InvalidArgumentError(
      "The checkpoint has no tokenizer; use a GGUF file or a Hugging Face folder");
}

}  // namespace lift
