#include "server/tokenizer/huggingface_spec.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "server/tokenizer/huggingface_pretokenizer.h"
#include "server/tokenizer/sentencepiece_file.h"
#include "server/tokenizer/spec_parts.h"

namespace lift {
namespace {

// Ids may leave gaps (reserved rows), but not so many that a hostile id exhausts memory.
constexpr size_t kMaxIdGap = 100'000;

absl::Status Invalid(absl::string_view a, const auto&... rest) {
  return absl::InvalidArgumentError(absl::StrCat("tokenizer.json: ", a, rest...));
}

absl::Status Unsupported(absl::string_view a, const auto&... rest) {
  return absl::UnimplementedError(absl::StrCat("tokenizer.json: ", a, rest...));
}

absl::Status RefuseModelOptions(const Json& model) {
  LIFT_ASSIGN_OR_RETURN(const std::string type, JsonString(model, "type", "BPE"));
  if (type != "BPE")
    return Unsupported("model type ", type, " is not supported; byte-level BPE is the only one");
  LIFT_ASSIGN_OR_RETURN(const bool byte_fallback, JsonBool(model, "byte_fallback", false));
  if (byte_fallback) return Unsupported("byte_fallback (SentencePiece-style BPE) is not supported");
  LIFT_ASSIGN_OR_RETURN(const std::string prefix,
                        JsonString(model, "continuing_subword_prefix", ""));
  LIFT_ASSIGN_OR_RETURN(const std::string suffix, JsonString(model, "end_of_word_suffix", ""));
  if (!prefix.empty() || !suffix.empty()) {
    return Unsupported("continuing_subword_prefix and end_of_word_suffix are not supported");
  }
  const Json* dropout = JsonFind(model, "dropout");
  if (dropout != nullptr && !(dropout->is_number() && dropout->get<double>() == 0))
    return Unsupported("BPE dropout is not supported");
  return absl::OkStatus();
}

absl::Status PlaceToken(const std::string& token, int32_t id, size_t known, TokenizerSpec& spec) {
  if (id < 0) return Invalid("token \"", token.substr(0, 80), "\" has no valid id");
  if (static_cast<size_t>(id) > known + kMaxIdGap)
    return Invalid("token id ", id, " is far beyond the ", known, " tokens");
  if (static_cast<size_t>(id) >= spec.tokens.size())
    spec.tokens.resize(static_cast<size_t>(id) + 1);
  if (!spec.tokens[id].empty() && spec.tokens[id] != token)
    return Invalid("two tokens have the id ", id);
  spec.tokens[id] = token;
  return absl::OkStatus();
}

absl::Status ReadModel(const Json& json, TokenizerSpec& spec) {
  const Json* model = JsonFind(json, "model");
  if (model == nullptr) return Invalid("it has no \"model\"");
  LIFT_RETURN_IF_ERROR(RefuseModelOptions(*model));
  const Json* vocab = JsonFind(*model, "vocab");
  if (vocab == nullptr || !vocab->is_object()) return Invalid("\"model.vocab\" must be an object");
  for (const auto& [token, id] : vocab->items()) {
    if (!id.is_number_integer())
      return Invalid("the id of token \"", token.substr(0, 80), "\" is not a whole number");
    const int64_t value =
        id.is_number_unsigned() && id.get<uint64_t>() > (1u << 30) ? -1 : id.get<int64_t>();
    if (value < 0 || value > (1 << 30))
      return Invalid("the id of token \"", token.substr(0, 80), "\" is out of range");
    if (token.empty()) return Invalid("the empty string is a token");
    LIFT_RETURN_IF_ERROR(PlaceToken(token, static_cast<int32_t>(value), vocab->size(), spec));
  }
  const Json* merges = JsonFind(*model, "merges");
  if (merges == nullptr) return Invalid("it has no \"model.merges\"");
  LIFT_ASSIGN_OR_RETURN(spec.merges, ParseMerges(*merges));
  LIFT_ASSIGN_OR_RETURN(spec.ignore_merges, JsonBool(*model, "ignore_merges", false));
  LIFT_ASSIGN_OR_RETURN(spec.fuse_unk, JsonBool(*model, "fuse_unk", false));
  LIFT_ASSIGN_OR_RETURN(const std::string unknown, JsonString(*model, "unk_token", ""));
  if (!unknown.empty()) {
    const Json* id = JsonFind(*vocab, unknown.c_str());
    if (id == nullptr) return Invalid("unk_token \"", unknown, "\" is not in the vocabulary");
    spec.unk_id = id->get<int32_t>();
  }
  return absl::OkStatus();
}

absl::Status ReadAddedTokens(const Json& json, TokenizerSpec& spec) {
  const Json* list = JsonFind(json, "added_tokens");
  if (list == nullptr) return absl::OkStatus();
  if (!list->is_array()) return Invalid("\"added_tokens\" must be a list");
  absl::flat_hash_map<std::string, int32_t> vocab;
  for (size_t i = 0; i < spec.tokens.size(); ++i) {
    if (!spec.tokens[i].empty()) vocab.emplace(spec.tokens[i], static_cast<int32_t>(i));
  }
  const size_t known = spec.tokens.size() + list->size();
  for (const Json& item : *list) {
    LIFT_ASSIGN_OR_RETURN(AddedToken token, ParseAddedToken(item));
    const auto it = vocab.find(token.content);
    if (it != vocab.end() && it->second != token.id) {
      return Invalid("added token \"", token.content, "\" has another id than in the vocabulary");
    }
    LIFT_RETURN_IF_ERROR(PlaceToken(token.content, token.id, known, spec));
    spec.added_tokens.push_back(std::move(token));
  }
  return absl::OkStatus();
}

absl::Status ReadNormalizer(const Json* normalizer, TokenizerSpec& spec) {
  if (normalizer == nullptr) return absl::OkStatus();
  const std::string type = JsonType(*normalizer);
  if (type == "Sequence") {
    const Json* list = JsonFind(*normalizer, "normalizers");
    if (list == nullptr || !list->is_array()) return Invalid("a normalizer Sequence has no list");
    if (list->size() > 1)
      return Unsupported("a normalizer Sequence of more than one is not supported");
    return list->empty() ? absl::OkStatus() : ReadNormalizer(&list->front(), spec);
  }
  if (type != "NFC" && type != "NFD" && type != "NFKC" && type != "NFKD") {
    return Unsupported("normalizer ", type, " is not supported; NFC, NFD, NFKC and NFKD are");
  }
  spec.normalizer = absl::AsciiStrToLower(type);
  return absl::OkStatus();
}

absl::StatusOr<int32_t> TemplateTokenId(const Json& processor, const Json& item,
                                        const TokenizerSpec& spec) {
  const Json* special = JsonFind(item, "SpecialToken");
  if (special == nullptr) return Invalid("an unknown item in TemplateProcessing");
  LIFT_ASSIGN_OR_RETURN(const std::string name, JsonString(*special, "id", ""));
  const Json* table = JsonFind(processor, "special_tokens");
  const Json* entry = table == nullptr ? nullptr : JsonFind(*table, name.c_str());
  const Json* ids = entry == nullptr ? nullptr : JsonFind(*entry, "ids");
  if (ids == nullptr || !ids->is_array() || ids->size() != 1 ||
      !ids->front().is_number_unsigned() || ids->front().get<uint64_t>() >= spec.tokens.size()) {
    return Invalid("TemplateProcessing names \"", name, "\" without one valid id");
  }
  return ids->front().get<int32_t>();
}

// "$A" with at most one token before it (BOS) and one after it (EOS).
absl::Status ReadTemplate(const Json& processor, TokenizerSpec& spec) {
  const Json* single = JsonFind(processor, "single");
  if (single == nullptr || !single->is_array())
    return Invalid("TemplateProcessing has no \"single\" list");
  bool after = false;
  for (const Json& item : *single) {
    if (JsonFind(item, "Sequence") != nullptr) {
      if (after) return Unsupported("a TemplateProcessing that repeats the text is not supported");
      after = true;
      continue;
    }
    LIFT_ASSIGN_OR_RETURN(const int32_t id, TemplateTokenId(processor, item, spec));
    if (after ? spec.add_eos : spec.add_bos)
      return Unsupported("a TemplateProcessing with two tokens on one side is not supported");
    (after ? spec.add_eos : spec.add_bos) = true;
    (after ? spec.eos_id : spec.bos_id) = id;
  }
  return after ? absl::OkStatus() : Invalid("TemplateProcessing leaves the text out");
}

absl::Status ReadPostProcessor(const Json* processor, TokenizerSpec& spec) {
  if (processor == nullptr) return absl::OkStatus();
  const std::string type = JsonType(*processor);
  if (type == "ByteLevel") return absl::OkStatus();  // moves offsets only
  if (type == "TemplateProcessing") return ReadTemplate(*processor, spec);
  if (type != "Sequence") return Unsupported("post_processor ", type, " is not supported");
  const Json* list = JsonFind(*processor, "processors");
  if (list == nullptr || !list->is_array()) return Invalid("a post_processor Sequence has no list");
  for (const Json& item : *list) {
    LIFT_RETURN_IF_ERROR(ReadPostProcessor(&item, spec));
  }
  return absl::OkStatus();
}

absl::Status ReadDecoder(const Json* decoder) {
  if (decoder == nullptr)
    return Unsupported("a tokenizer without the ByteLevel decoder is not supported");
  const std::string type = JsonType(*decoder);
  if (type == "ByteLevel") return absl::OkStatus();
  const Json* list = JsonFind(*decoder, "decoders");
  if (type == "Sequence" && list != nullptr && list->is_array() && list->size() == 1)
    return ReadDecoder(&list->front());
  return Unsupported("decoder ", type, " is not supported; ByteLevel is the only one");
}

// A token of tokenizer_config.json: its text, or an object with it. Empty if absent.
absl::StatusOr<std::string> ConfigToken(const Json& config, const char* key) {
  const Json* value = JsonFind(config, key);
  if (value != nullptr && value->is_object()) return JsonString(*value, "content", "");
  return JsonString(config, key, "");
}

int32_t FindToken(const TokenizerSpec& spec, const std::string& text) {
  if (text.empty()) return -1;
  const auto it = std::find(spec.tokens.begin(), spec.tokens.end(), text);
  return it == spec.tokens.end() ? -1 : static_cast<int32_t>(it - spec.tokens.begin());
}

// "chat_template": the template, or a list of named ones of which "default" is taken.
absl::StatusOr<std::string> ConfigTemplate(const Json& config) {
  const Json* value = JsonFind(config, "chat_template");
  if (value == nullptr || !value->is_array()) return JsonString(config, "chat_template", "");
  for (const Json& item : *value) {
    LIFT_ASSIGN_OR_RETURN(const std::string name, JsonString(item, "name", ""));
    if (name == "default") return JsonString(item, "template", "");
  }
  return std::string();
}

absl::Status ReadConfig(const std::string& text, TokenizerSpec& spec) {
  if (text.empty()) return absl::OkStatus();
  LIFT_ASSIGN_OR_RETURN(const Json config,
                        ParseJson(text, "tokenizer_config.json", kMaxTokenizerJsonBytes));
  if (!config.is_object())
    return absl::InvalidArgumentError("tokenizer_config.json is not an object");
  LIFT_ASSIGN_OR_RETURN(spec.bos_token, ConfigToken(config, "bos_token"));
  LIFT_ASSIGN_OR_RETURN(spec.eos_token, ConfigToken(config, "eos_token"));
  LIFT_ASSIGN_OR_RETURN(const std::string pad, ConfigToken(config, "pad_token"));
  const int32_t bos = FindToken(spec, spec.bos_token), eos = FindToken(spec, spec.eos_token);
  spec.pad_id = FindToken(spec, pad);
  if (eos >= 0) spec.eos_ids.push_back(eos);
  if (spec.bos_id < 0)
    spec.bos_id = bos;  // what the post-processor adds goes before what the config says
  if (spec.eos_id < 0) spec.eos_id = eos;
  LIFT_ASSIGN_OR_RETURN(spec.add_bos, JsonBool(config, "add_bos_token", spec.add_bos));
  LIFT_ASSIGN_OR_RETURN(spec.add_eos, JsonBool(config, "add_eos_token", spec.add_eos));
  spec.add_bos = spec.add_bos && spec.bos_id >= 0;
  spec.add_eos = spec.add_eos && spec.eos_id >= 0;
  LIFT_ASSIGN_OR_RETURN(spec.chat_template, ConfigTemplate(config));
  return absl::OkStatus();
}

// Tokens beyond the pieces of a SentencePiece model, and which of these are special.
absl::Status ReadAddedTokensDecoder(const std::string& text, TokenizerSpec& spec) {
  if (text.empty()) return absl::OkStatus();
  LIFT_ASSIGN_OR_RETURN(const Json config,
                        ParseJson(text, "tokenizer_config.json", kMaxTokenizerJsonBytes));
  // Llama's tokenizer class puts BOS in front unless told otherwise.
  LIFT_ASSIGN_OR_RETURN(const std::string kind, JsonString(config, "tokenizer_class", ""));
  LIFT_ASSIGN_OR_RETURN(spec.add_bos, JsonBool(config, "add_bos_token", kind.starts_with("Llama")));
  const Json* list = JsonFind(config, "added_tokens_decoder");
  if (list == nullptr) return absl::OkStatus();
  if (!list->is_object()) return Invalid("\"added_tokens_decoder\" must be an object");
  const size_t known = spec.tokens.size() + list->size();
  for (const auto& [key, item] : list->items()) {
    Json whole = item;
    int32_t id = -1;
    if (!absl::SimpleAtoi(key, &id) || !item.is_object())
      return Invalid("added_tokens_decoder has the entry \"", key.substr(0, 80), "\"");
    whole["id"] = id;
    LIFT_ASSIGN_OR_RETURN(AddedToken token, ParseAddedToken(whole));
    LIFT_RETURN_IF_ERROR(PlaceToken(token.content, token.id, known, spec));
    std::erase_if(spec.added_tokens, [&](const AddedToken& other) { return other.id == token.id; });
    spec.added_tokens.push_back(std::move(token));
  }
  return absl::OkStatus();
}

absl::Status ReadGenerationConfig(const std::string& text, TokenizerSpec& spec) {
  if (text.empty()) return absl::OkStatus();
  LIFT_ASSIGN_OR_RETURN(const Json config,
                        ParseJson(text, "generation_config.json", kMaxTokenizerJsonBytes));
  const Json* eos = JsonFind(config, "eos_token_id");
  if (eos == nullptr) return absl::OkStatus();
  for (const Json& id : eos->is_array() ? *eos : Json::array({*eos})) {
    LIFT_ASSIGN_OR_RETURN(const int32_t value,
                          JsonInt32(Json{{"eos_token_id", id}}, "eos_token_id", -1));
    if (value >= 0 &&
        std::find(spec.eos_ids.begin(), spec.eos_ids.end(), value) == spec.eos_ids.end())
      spec.eos_ids.push_back(value);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadOptional(const std::filesystem::path& path) {
  std::error_code error;
  const auto size = std::filesystem::file_size(path, error);
  if (error) return std::string();
  if (size > kMaxTokenizerJsonBytes)
    return absl::InvalidArgumentError(
        absl::StrCat(path.string(), " is too large: ", size, " bytes"));
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  if (!file) return absl::PermissionDeniedError(absl::StrCat("Cannot read ", path.string()));
  return text.str();
}

}  // namespace

absl::StatusOr<TokenizerSpec> ParseHuggingFaceTokenizer(const HuggingFaceTokenizerFiles& files) {
  LIFT_ASSIGN_OR_RETURN(const Json json,
                        ParseJson(files.tokenizer, "tokenizer.json", kMaxTokenizerJsonBytes));
  TokenizerSpec spec;
  spec.type = "byte_level_bpe";
  LIFT_RETURN_IF_ERROR(ReadModel(json, spec));
  LIFT_RETURN_IF_ERROR(ReadAddedTokens(json, spec));
  LIFT_RETURN_IF_ERROR(ReadNormalizer(JsonFind(json, "normalizer"), spec));
  LIFT_RETURN_IF_ERROR(ReadPreTokenizer(JsonFind(json, "pre_tokenizer"), spec));
  LIFT_RETURN_IF_ERROR(ReadPostProcessor(JsonFind(json, "post_processor"), spec));
  LIFT_RETURN_IF_ERROR(ReadDecoder(JsonFind(json, "decoder")));
  LIFT_RETURN_IF_ERROR(ReadConfig(files.tokenizer_config, spec));
  LIFT_RETURN_IF_ERROR(ReadGenerationConfig(files.generation_config, spec));
  if (spec.bos_token.empty() && spec.bos_id >= 0) spec.bos_token = spec.tokens[spec.bos_id];
  if (spec.eos_token.empty() && spec.eos_id >= 0) spec.eos_token = spec.tokens[spec.eos_id];
  if (spec.eos_ids.empty() && spec.eos_id >= 0) spec.eos_ids.push_back(spec.eos_id);
  if (!files.chat_template.empty()) spec.chat_template = files.chat_template;
  LIFT_RETURN_IF_ERROR(ValidateTokenizerSpec(spec));
  return spec;
}

absl::StatusOr<TokenizerSpec> ParseHuggingFaceSentencePiece(
    std::string_view model, const HuggingFaceTokenizerFiles& files) {
  LIFT_ASSIGN_OR_RETURN(TokenizerSpec spec, ParseSentencePieceModel(model));
  LIFT_RETURN_IF_ERROR(ReadAddedTokensDecoder(files.tokenizer_config, spec));
  // What tokenizer_config.json names goes before what the model's trainer knew.
  const TokenizerSpec trained = spec;
  spec.bos_id = spec.eos_id = -1;
  LIFT_RETURN_IF_ERROR(ReadConfig(files.tokenizer_config, spec));
  if (spec.bos_id < 0) spec.bos_id = trained.bos_id, spec.bos_token = trained.bos_token;
  if (spec.eos_id < 0) spec.eos_id = trained.eos_id, spec.eos_token = trained.eos_token;
  spec.add_bos = trained.add_bos && spec.bos_id >= 0;
  LIFT_RETURN_IF_ERROR(ReadGenerationConfig(files.generation_config, spec));
  if (!files.chat_template.empty()) spec.chat_template = files.chat_template;
  LIFT_RETURN_IF_ERROR(ValidateTokenizerSpec(spec));
  return spec;
}

absl::StatusOr<TokenizerSpec> LoadHuggingFaceTokenizer(const std::string& folder) {
  const std::filesystem::path path(folder);
  HuggingFaceTokenizerFiles files;
  LIFT_ASSIGN_OR_RETURN(files.tokenizer, ReadOptional(path / "tokenizer.json"));
  LIFT_ASSIGN_OR_RETURN(const std::string pieces, ReadOptional(path / "tokenizer.model"));
  if (files.tokenizer.empty() && pieces.empty()) {
    return absl::NotFoundError(absl::StrCat("Neither tokenizer.json nor tokenizer.model in ",
                                            folder, "; save the model's tokenizer there"));
  }
  LIFT_ASSIGN_OR_RETURN(files.tokenizer_config, ReadOptional(path / "tokenizer_config.json"));
  LIFT_ASSIGN_OR_RETURN(files.generation_config, ReadOptional(path / "generation_config.json"));
  LIFT_ASSIGN_OR_RETURN(files.chat_template, ReadOptional(path / "chat_template.jinja"));
  if (files.tokenizer.empty()) return ParseHuggingFaceSentencePiece(pieces, files);
  absl::StatusOr<TokenizerSpec> spec = ParseHuggingFaceTokenizer(files);
  // Folders of SentencePiece models often have it in both forms; the original is the one we read.
  if (absl::IsUnimplemented(spec.status()) && !pieces.empty())
    return ParseHuggingFaceSentencePiece(pieces, files);
  return spec;
}

}  // namespace lift
