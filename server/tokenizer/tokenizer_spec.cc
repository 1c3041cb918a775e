#include "server/tokenizer/tokenizer_spec.h"

#include <cmath>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "server/tokenizer/normalizer.h"
#include "server/tokenizer/pattern.h"
#include "server/tokenizer/sentencepiece.h"
#include "server/tokenizer/spec_parts.h"
#include "server/tokenizer/utf8.h"

namespace lift {
namespace {

constexpr size_t kMaxTokens = 4u << 20, kMaxMerges = 8u << 20, kMaxTokenBytes = 64u << 10,
                 kMaxSplits = 32, kMaxPatternBytes = 64u << 10, kMaxAddedTokens = 128u << 10,
                 kMaxAddedBytes = 1024, kMaxTemplateBytes = 1u << 20, kMaxCharsMapBytes = 16u << 20;

absl::Status Invalid(absl::string_view a, const auto&... rest) {
  return absl::InvalidArgumentError(absl::StrCat("Tokenizer: ", a, rest...));
}

absl::Status CheckText(const std::string& text, size_t max_bytes, const std::string& what) {
  if (text.size() > max_bytes) return Invalid(what, " is longer than ", max_bytes, " bytes");
  if (FindInvalidUtf8(text) != std::string_view::npos) return Invalid(what, " is not valid UTF-8");
  return absl::OkStatus();
}

absl::Status CheckId(int32_t id, size_t vocab, const char* what) {
  if (id < -1 || (id >= 0 && static_cast<size_t>(id) >= vocab)) {
    return Invalid(what, " ", id, " is not in the vocabulary of ", vocab, " tokens");
  }
  return absl::OkStatus();
}

absl::Status CheckTokens(const TokenizerSpec& spec) {
  if (spec.tokens.empty()) return Invalid("the vocabulary is empty");
  if (spec.tokens.size() > kMaxTokens) return Invalid("more than ", kMaxTokens, " tokens");
  if (spec.merges.size() > kMaxMerges) return Invalid("more than ", kMaxMerges, " merges");
  absl::flat_hash_set<std::string_view> known;
  known.reserve(spec.tokens.size());
  for (size_t i = 0; i < spec.tokens.size(); ++i) {
    if (spec.tokens[i].size() > kMaxTokenBytes ||
        FindInvalidUtf8(spec.tokens[i]) != std::string_view::npos) {
      return CheckText(spec.tokens[i], kMaxTokenBytes, absl::StrCat("token ", i));
    }
    known.insert(spec.tokens[i]);
  }
  std::string merged;
  for (size_t i = 0; i < spec.merges.size(); ++i) {
    const auto& [a, b] = spec.merges[i];
    merged.assign(a).append(b);
    if (a.empty() || b.empty() || !known.contains(a) || !known.contains(b) ||
        !known.contains(merged)) {
      return Invalid("merge ", i,
                     " uses a token that is not in the vocabulary; the tokenizer is damaged");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckAddedTokens(const TokenizerSpec& spec) {
  if (spec.added_tokens.size() > kMaxAddedTokens)
    return Invalid("more than ", kMaxAddedTokens, " added tokens");
  absl::flat_hash_set<int32_t> ids;
  absl::flat_hash_set<std::string_view> contents;
  for (const AddedToken& token : spec.added_tokens) {
    LIFT_RETURN_IF_ERROR(CheckText(token.content, kMaxAddedBytes, "an added token"));
    if (token.id < 0) return Invalid("added token \"", token.content, "\" has no id");
    LIFT_RETURN_IF_ERROR(CheckId(token.id, spec.tokens.size(), "added token id"));
    if (token.content.empty()) return Invalid("added token ", token.id, " is empty");
    if (!ids.insert(token.id).second) return Invalid("two added tokens have the id ", token.id);
    if (!contents.insert(token.content).second)
      return Invalid("two added tokens are \"", token.content, "\"");
  }
  return absl::OkStatus();
}

absl::Status CheckSentencePiece(const TokenizerSpec& spec) {
  const SentencePieceSpec& sp = spec.sentencepiece;
  const bool wanted = spec.type != "byte_level_bpe";
  if (sp.scores.size() != sp.kinds.size() || sp.kinds.size() > spec.tokens.size() ||
      wanted == sp.kinds.empty()) {
    return Invalid("", sp.scores.size(), " scores and ", sp.kinds.size(), " kinds do not fit ",
                   spec.tokens.size(), " tokens of type ", spec.type);
  }
  for (const float score : sp.scores) {
    if (!std::isfinite(score)) return Invalid("a piece has a score that is not finite");
  }
  if (sp.charsmap.size() > kMaxCharsMapBytes)
    return Invalid("its normalization rules are longer than ", kMaxCharsMapBytes, " bytes");
  return CharsMap::Parse(sp.charsmap).status();
}

}  // namespace

absl::Status ValidateTokenizerSpec(const TokenizerSpec& spec) {
  if (spec.type != "byte_level_bpe" && spec.type != "sentencepiece_bpe" &&
      spec.type != "sentencepiece_unigram") {
    return absl::UnimplementedError(
        absl::StrCat("Tokenizer type \"", spec.type,
                     "\" is not supported; byte_level_bpe, sentencepiece_bpe and "
                     "sentencepiece_unigram are"));
  }
  LIFT_RETURN_IF_ERROR(CheckSentencePiece(spec));
  LIFT_RETURN_IF_ERROR(CheckTokens(spec));
  LIFT_RETURN_IF_ERROR(CheckAddedTokens(spec));
  if (spec.splits.size() > kMaxSplits)
    return Invalid("more than ", kMaxSplits, " pre-tokenizer splits");
  for (const auto& split : spec.splits) {
    LIFT_RETURN_IF_ERROR(CheckText(split.pattern, kMaxPatternBytes, "a pre-tokenizer pattern"));
    if (!IsSplitBehavior(split.behavior))
      return Invalid("unknown split behavior \"", split.behavior, "\"");
  }
  if (spec.prefix_space_at < 0 || static_cast<size_t>(spec.prefix_space_at) > spec.splits.size()) {
    return Invalid("prefix_space_at ", spec.prefix_space_at, " is beyond the splits");
  }
  LIFT_RETURN_IF_ERROR(NormalFormFromName(spec.normalizer).status());
  const size_t vocab = spec.tokens.size();
  LIFT_RETURN_IF_ERROR(CheckId(spec.bos_id, vocab, "bos_id"));
  LIFT_RETURN_IF_ERROR(CheckId(spec.eos_id, vocab, "eos_id"));
  LIFT_RETURN_IF_ERROR(CheckId(spec.unk_id, vocab, "unk_id"));
  LIFT_RETURN_IF_ERROR(CheckId(spec.pad_id, vocab, "pad_id"));
  for (const int32_t id : spec.eos_ids) {
    if (id < 0) return Invalid("an eos id is negative");
    LIFT_RETURN_IF_ERROR(CheckId(id, vocab, "eos id"));
  }
  if (spec.add_bos && spec.bos_id < 0) return Invalid("add_bos is set but there is no BOS token");
  if (spec.add_eos && spec.eos_id < 0) return Invalid("add_eos is set but there is no EOS token");
  LIFT_RETURN_IF_ERROR(CheckText(spec.chat_template, kMaxTemplateBytes, "the chat template"));
  LIFT_RETURN_IF_ERROR(CheckText(spec.bos_token, kMaxAddedBytes, "bos_token"));
  return CheckText(spec.eos_token, kMaxAddedBytes, "eos_token");
}

absl::StatusOr<std::pair<std::string, std::string>> ParseMerge(const std::string& merge) {
  const size_t space = merge.find(' ');
  if (space == std::string::npos || space == 0 || space + 1 == merge.size() ||
      merge.find(' ', space + 1) != std::string::npos) {
    return Invalid("merge \"", merge.substr(0, 80),
                   "\" is not two tokens with a space between them");
  }
  return std::make_pair(merge.substr(0, space), merge.substr(space + 1));
}

absl::StatusOr<std::vector<std::pair<std::string, std::string>>> ParseMerges(const Json& list) {
  if (!list.is_array()) return Invalid("\"merges\" must be a list");
  std::vector<std::pair<std::string, std::string>> merges;
  merges.reserve(list.size());
  for (const Json& item : list) {
    if (item.is_string()) {
      LIFT_ASSIGN_OR_RETURN(auto merge, ParseMerge(item.get_ref<const std::string&>()));
      merges.push_back(std::move(merge));
    } else if (item.is_array() && item.size() == 2 && item[0].is_string() && item[1].is_string()) {
      merges.emplace_back(item[0].get<std::string>(), item[1].get<std::string>());
    } else {
      return Invalid("merge ", merges.size(), " is neither \"a b\" nor [\"a\", \"b\"]");
    }
  }
  return merges;
}

absl::StatusOr<AddedToken> ParseAddedToken(const Json& object) {
  if (!object.is_object()) return Invalid("an added token is not an object");
  AddedToken token;
  LIFT_ASSIGN_OR_RETURN(token.id, JsonInt32(object, "id", -1));
  LIFT_ASSIGN_OR_RETURN(token.content, JsonString(object, "content", ""));
  LIFT_ASSIGN_OR_RETURN(token.special, JsonBool(object, "special", false));
  LIFT_ASSIGN_OR_RETURN(token.lstrip, JsonBool(object, "lstrip", false));
  LIFT_ASSIGN_OR_RETURN(token.rstrip, JsonBool(object, "rstrip", false));
  LIFT_ASSIGN_OR_RETURN(token.single_word, JsonBool(object, "single_word", false));
  LIFT_ASSIGN_OR_RETURN(token.normalized, JsonBool(object, "normalized", false));
  return token;
}

namespace {

Json SentencePieceToJson(const SentencePieceSpec& spec) {
  std::vector<int> kinds;
  for (const SentencePieceSpec::Kind kind : spec.kinds) kinds.push_back(static_cast<int>(kind));
  return {{"scores", spec.scores},
          {"kinds", kinds},
          {"byte_fallback", spec.byte_fallback},
          {"add_dummy_prefix", spec.add_dummy_prefix},
          {"remove_extra_whitespaces", spec.remove_extra_whitespaces},
          {"escape_whitespaces", spec.escape_whitespaces},
          {"charsmap", absl::Base64Escape(spec.charsmap)}};
}

absl::StatusOr<SentencePieceSpec> SentencePieceFromJson(const Json& json) {
  SentencePieceSpec spec;
  const Json* scores = JsonFind(json, "scores");
  const Json* kinds = JsonFind(json, "kinds");
  if (!scores || !scores->is_array() || !kinds || !kinds->is_array())
    return Invalid("\"sentencepiece\" needs lists of scores and kinds");
  for (const Json& score : *scores) {
    if (!score.is_number()) return Invalid("a score is not a number");
    const double value = score.get<double>();
    if (!(std::abs(value) <= 1e30)) return Invalid("a score is out of range");
    spec.scores.push_back(static_cast<float>(value));
  }
  for (const Json& kind : *kinds) {
    const int64_t value = kind.is_number_integer() ? kind.get<int64_t>() : 0;
    if (value < 1 || value > 6) return Invalid("the kind of a piece is not 1 to 6");
    spec.kinds.push_back(static_cast<SentencePieceSpec::Kind>(value));
  }
  LIFT_ASSIGN_OR_RETURN(spec.byte_fallback, JsonBool(json, "byte_fallback", false));
  LIFT_ASSIGN_OR_RETURN(spec.add_dummy_prefix, JsonBool(json, "add_dummy_prefix", true));
  LIFT_ASSIGN_OR_RETURN(spec.remove_extra_whitespaces,
                        JsonBool(json, "remove_extra_whitespaces", true));
  LIFT_ASSIGN_OR_RETURN(spec.escape_whitespaces, JsonBool(json, "escape_whitespaces", true));
  LIFT_ASSIGN_OR_RETURN(const std::string charsmap, JsonString(json, "charsmap", ""));
  if (!absl::Base64Unescape(charsmap, &spec.charsmap)) return Invalid("charsmap is not base64");
  return spec;
}

}  // namespace

std::string TokenizerSpec::ToJson() const {
  Json json = {{"version", 1},
               {"type", type},
               {"tokens", tokens},
               {"merges", Json::array()},
               {"splits", Json::array()},
               {"add_prefix_space", add_prefix_space},
               {"prefix_space_at", prefix_space_at},
               {"ignore_merges", ignore_merges},
               {"normalizer", normalizer},
               {"added_tokens", Json::array()},
               {"bos_id", bos_id},
               {"eos_id", eos_id},
               {"unk_id", unk_id},
               {"pad_id", pad_id},
               {"fuse_unk", fuse_unk},
               {"eos_ids", eos_ids},
               {"add_bos", add_bos},
               {"add_eos", add_eos},
               {"chat_template", chat_template},
               {"bos_token", bos_token},
               {"eos_token", eos_token}};
  if (!sentencepiece.kinds.empty()) json["sentencepiece"] = SentencePieceToJson(sentencepiece);
  for (const auto& [a, b] : merges) {
    const bool spaces = a.find(' ') != std::string::npos || b.find(' ') != std::string::npos;
    json["merges"].push_back(spaces ? Json::array({a, b}) : Json(absl::StrCat(a, " ", b)));
  }
  for (const Split& split : splits) {
    json["splits"].push_back(
        {{"pattern", split.pattern}, {"behavior", split.behavior}, {"invert", split.invert}});
  }
  for (const AddedToken& token : added_tokens) {
    json["added_tokens"].push_back({{"id", token.id},
                                    {"content", token.content},
                                    {"special", token.special},
                                    {"lstrip", token.lstrip},
                                    {"rstrip", token.rstrip},
                                    {"single_word", token.single_word},
                                    {"normalized", token.normalized}});
  }
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

namespace {

absl::Status ReadLists(const Json& json, TokenizerSpec& spec) {
  const Json* tokens = JsonFind(json, "tokens");
  if (tokens == nullptr || !tokens->is_array()) return Invalid("\"tokens\" must be a list");
  for (const Json& token : *tokens) {
    if (!token.is_string()) return Invalid("token ", spec.tokens.size(), " is not a string");
    spec.tokens.push_back(token.get<std::string>());
  }
  if (const Json* merges = JsonFind(json, "merges")) {
    LIFT_ASSIGN_OR_RETURN(spec.merges, ParseMerges(*merges));
  }
  if (const Json* splits = JsonFind(json, "splits")) {
    if (!splits->is_array()) return Invalid("\"splits\" must be a list");
    for (const Json& item : *splits) {
      TokenizerSpec::Split split;
      LIFT_ASSIGN_OR_RETURN(split.pattern, JsonString(item, "pattern", ""));
      LIFT_ASSIGN_OR_RETURN(split.behavior, JsonString(item, "behavior", "isolated"));
      LIFT_ASSIGN_OR_RETURN(split.invert, JsonBool(item, "invert", false));
      spec.splits.push_back(std::move(split));
    }
  }
  if (const Json* added = JsonFind(json, "added_tokens")) {
    if (!added->is_array()) return Invalid("\"added_tokens\" must be a list");
    for (const Json& item : *added) {
      LIFT_ASSIGN_OR_RETURN(AddedToken token, ParseAddedToken(item));
      spec.added_tokens.push_back(std::move(token));
    }
  }
  if (const Json* ids = JsonFind(json, "eos_ids")) {
    if (!ids->is_array()) return Invalid("\"eos_ids\" must be a list");
    for (const Json& id : *ids) {
      LIFT_ASSIGN_OR_RETURN(const int32_t value, JsonInt32(Json{{"eos_ids", id}}, "eos_ids", -1));
      spec.eos_ids.push_back(value);
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TokenizerSpec> TokenizerSpec::FromJson(const std::string& text) {
  LIFT_ASSIGN_OR_RETURN(const Json json, ParseJson(text, "the tokenizer", kMaxTokenizerJsonBytes));
  if (!json.is_object()) return Invalid("the JSON is not an object");
  LIFT_ASSIGN_OR_RETURN(const int32_t version, JsonInt32(json, "version", 1));
  if (version != 1)
    return absl::UnimplementedError(
        absl::StrCat("Tokenizer version ", version, " is not supported"));
  TokenizerSpec spec;
  LIFT_ASSIGN_OR_RETURN(spec.type, JsonString(json, "type", ""));
  LIFT_RETURN_IF_ERROR(ReadLists(json, spec));
  if (const Json* pieces = JsonFind(json, "sentencepiece")) {
    LIFT_ASSIGN_OR_RETURN(spec.sentencepiece, SentencePieceFromJson(*pieces));
  }
  LIFT_ASSIGN_OR_RETURN(spec.add_prefix_space, JsonBool(json, "add_prefix_space", false));
  LIFT_ASSIGN_OR_RETURN(spec.prefix_space_at, JsonInt32(json, "prefix_space_at", 0));
  LIFT_ASSIGN_OR_RETURN(spec.ignore_merges, JsonBool(json, "ignore_merges", false));
  LIFT_ASSIGN_OR_RETURN(spec.normalizer, JsonString(json, "normalizer", ""));
  LIFT_ASSIGN_OR_RETURN(spec.bos_id, JsonInt32(json, "bos_id", -1));
  LIFT_ASSIGN_OR_RETURN(spec.eos_id, JsonInt32(json, "eos_id", -1));
  LIFT_ASSIGN_OR_RETURN(spec.unk_id, JsonInt32(json, "unk_id", -1));
  LIFT_ASSIGN_OR_RETURN(spec.pad_id, JsonInt32(json, "pad_id", -1));
  LIFT_ASSIGN_OR_RETURN(spec.fuse_unk, JsonBool(json, "fuse_unk", false));
  LIFT_ASSIGN_OR_RETURN(spec.add_bos, JsonBool(json, "add_bos", false));
  LIFT_ASSIGN_OR_RETURN(spec.add_eos, JsonBool(json, "add_eos", false));
  LIFT_ASSIGN_OR_RETURN(spec.chat_template, JsonString(json, "chat_template", ""));
  LIFT_ASSIGN_OR_RETURN(spec.bos_token, JsonString(json, "bos_token", ""));
  LIFT_ASSIGN_OR_RETURN(spec.eos_token, JsonString(json, "eos_token", ""));
  LIFT_RETURN_IF_ERROR(ValidateTokenizerSpec(spec));
  return spec;
}

}  // namespace lift
