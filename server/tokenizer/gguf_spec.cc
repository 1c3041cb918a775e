#include "server/tokenizer/gguf_spec.h"

#include <algorithm>
#include <array>

#include "absl/strings/str_cat.h"
#include "server/tokenizer/huggingface_spec.h"
#include "server/tokenizer/pretokenizer_patterns.h"
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
  if (model != "gpt2") {
    return absl::UnimplementedError(
        absl::StrCat(file.name(), ": tokenizer model \"", std::string(model),
                     "\" is not supported; byte-level BPE (\"gpt2\") is the only one"));
  }
  LIFT_ASSIGN_OR_RETURN(const std::string_view pre,
                        file.GetString("tokenizer.ggml.pre", "default"));
  LIFT_ASSIGN_OR_RETURN(PreTokenizerRecipe recipe, PreTokenizerByGgufName(pre));
  TokenizerSpec spec;
  spec.type = "byte_level_bpe";
  spec.splits = std::move(recipe.splits);
  spec.ignore_merges = recipe.ignore_merges;
  spec.normalizer = recipe.normalizer;
  LIFT_RETURN_IF_ERROR(ReadVocabulary(file, spec));
  LIFT_RETURN_IF_ERROR(ReadSpecialIds(file, spec));
  LIFT_ASSIGN_OR_RETURN(spec.add_bos, file.GetBool("tokenizer.ggml.add_bos_token", recipe.add_bos));
  LIFT_ASSIGN_OR_RETURN(spec.add_eos, file.GetBool("tokenizer.ggml.add_eos_token", false));
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
