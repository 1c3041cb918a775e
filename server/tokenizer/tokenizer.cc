#include "server/tokenizer/tokenizer.h"

#include <deque>
#include <optional>

#include "absl/strings/str_cat.h"
#include "server/tokenizer/added_tokens.h"
#include "server/tokenizer/bpe.h"
#include "server/tokenizer/normalizer.h"
#include "server/tokenizer/pattern.h"
#include "server/tokenizer/sentencepiece.h"
#include "server/tokenizer/utf8.h"

namespace lift {
namespace {

constexpr size_t kMaxTextBytes = 256u << 20;

// What a piece stands for in a text.
std::string PieceBytes(const std::string& piece, SentencePieceSpec::Kind kind) {
  if (kind == SentencePieceSpec::Kind::kUnknown)
    return " \xE2\x81\x87 ";  // as the original shows it
  if (kind == SentencePieceSpec::Kind::kByte) {
    const int byte = BytePieceValue(piece);
    if (byte >= 0) return std::string(1, static_cast<char>(byte));
  }
  std::string bytes;
  for (size_t i = 0; i < piece.size();) {
    const bool space = std::string_view(piece).substr(i).starts_with(kSentencePieceSpace);
    bytes += space ? ' ' : piece[i];
    i += space ? 3 : 1;
  }
  return bytes;
}

}  // namespace

struct Tokenizer::Impl {
  TokenizerSpec spec;
  BpeModel bpe;
  std::optional<SentencePieceModel> pieces;  // instead of bpe, splits and normalization
  NormalForm normal_form;
  std::vector<SplitPattern> splits;
  AddedTokenMatcher raw_matcher,
      normalized_matcher;          // tokens matched before and after normalization
  std::vector<std::string> bytes;  // [vocab]
  std::vector<bool> special;       // [vocab]

  // What one Encode call needs besides the tokenizer.
  struct Call {
    MatchScratch match;
    BpeModel::Scratch merge;
    std::vector<std::string_view> pieces, next;
    std::deque<std::string> prefixed;  // owns the pieces that got a space
  };
  absl::Status EncodeSegment(std::string_view text, bool parse_special, Call& call,
                             std::vector<int32_t>& ids) const;
  absl::Status EncodePlain(std::string_view text, Call& call, std::vector<int32_t>& ids) const;
  void AddPrefixSpaces(Call& call) const;
};

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;

absl::StatusOr<std::shared_ptr<const Tokenizer>> Tokenizer::Create(TokenizerSpec spec) {
  LIFT_RETURN_IF_ERROR(ValidateTokenizerSpec(spec));
  LIFT_ASSIGN_OR_RETURN(const NormalForm form, NormalFormFromName(spec.normalizer));
  LIFT_ASSIGN_OR_RETURN(BpeModel bpe, BpeModel::Create(spec));
  std::optional<SentencePieceModel> pieces;
  if (spec.type != "byte_level_bpe") {
    LIFT_ASSIGN_OR_RETURN(pieces, SentencePieceModel::Create(spec));
  }
  auto impl = std::unique_ptr<Impl>(
      new Impl{std::move(spec), std::move(bpe), std::move(pieces), form, {}, {}, {}, {}, {}});
  for (const auto& split : impl->spec.splits) {
    LIFT_ASSIGN_OR_RETURN(SplitPattern pattern, SplitPattern::Create(split));
    impl->splits.push_back(std::move(pattern));
  }
  const SentencePieceSpec& sp = impl->spec.sentencepiece;
  for (size_t i = 0; i < impl->spec.tokens.size(); ++i) {
    const std::string& token = impl->spec.tokens[i];
    const bool added = impl->pieces && i >= sp.kinds.size();
    impl->bytes.push_back(added          ? token
                          : impl->pieces ? PieceBytes(token, sp.kinds[i])
                                         : FromByteAlphabet(token));
  }
  impl->special.assign(impl->bytes.size(), false);
  for (const AddedToken& token : impl->spec.added_tokens) {
    impl->special[token.id] = token.special;
    if (token.normalized) {
      const std::string content = Normalize(token.content, form);
      impl->normalized_matcher.Add(content, token);
      impl->bytes[token.id] = FromByteAlphabet(content);
    } else {
      impl->raw_matcher.Add(token.content, token);
    }
  }
  return std::shared_ptr<const Tokenizer>(new Tokenizer(std::move(impl)));
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::Encode(std::string_view text,
                                                       EncodeOptions options) const {
  if (text.size() > kMaxTextBytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "Text of ", text.size(), " bytes is longer than ", kMaxTextBytes, "; shorten it"));
  }
  if (const size_t bad = FindInvalidUtf8(text); bad != std::string_view::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("Text is not valid UTF-8 at byte ", bad, "; send UTF-8"));
  }
  const TokenizerSpec& spec = impl_->spec;
  std::vector<int32_t> ids;
  if (options.add_special && spec.add_bos && spec.bos_id >= 0) ids.push_back(spec.bos_id);
  Impl::Call call;
  for (const auto& segment : impl_->raw_matcher.Split(text, options.parse_special)) {
    if (segment.id >= 0) {
      ids.push_back(segment.id);
    } else {
      LIFT_RETURN_IF_ERROR(impl_->EncodeSegment(segment.text, options.parse_special, call, ids));
    }
  }
  if (options.add_special && spec.add_eos && spec.eos_id >= 0) ids.push_back(spec.eos_id);
  return ids;
}

absl::Status Tokenizer::Impl::EncodeSegment(std::string_view text, bool parse_special, Call& call,
                                            std::vector<int32_t>& ids) const {
  const std::string normalized =
      normal_form == NormalForm::kNone ? std::string() : Normalize(text, normal_form);
  if (normal_form != NormalForm::kNone) text = normalized;
  for (const auto& segment : normalized_matcher.Split(text, parse_special)) {
    if (segment.id >= 0) {
      ids.push_back(segment.id);
    } else {
      LIFT_RETURN_IF_ERROR(EncodePlain(segment.text, call, ids));
    }
  }
  return absl::OkStatus();
}

absl::Status Tokenizer::Impl::EncodePlain(std::string_view text, Call& call,
                                          std::vector<int32_t>& ids) const {
  if (pieces) {
    pieces->Encode(text, ids);
    return absl::OkStatus();
  }
  call.pieces.assign(1, text);
  call.prefixed.clear();
  for (size_t i = 0; i < splits.size(); ++i) {
    if (static_cast<size_t>(spec.prefix_space_at) == i) AddPrefixSpaces(call);
    call.next.clear();
    for (const std::string_view piece : call.pieces) {
      LIFT_RETURN_IF_ERROR(splits[i].Apply(piece, call.match, call.next));
    }
    call.pieces.swap(call.next);
  }
  if (static_cast<size_t>(spec.prefix_space_at) == splits.size()) AddPrefixSpaces(call);
  for (const std::string_view piece : call.pieces) bpe.Encode(piece, call.merge, ids);
  return absl::OkStatus();
}

void Tokenizer::Impl::AddPrefixSpaces(Call& call) const {
  if (!spec.add_prefix_space) return;
  for (std::string_view& piece : call.pieces) {
    if (!piece.starts_with(' ')) piece = call.prefixed.emplace_back(" ").append(piece);
  }
}

absl::StatusOr<std::string> Tokenizer::DecodeBytes(std::span<const int32_t> ids,
                                                   bool skip_special) const {
  std::string out;
  for (const int32_t id : ids) {
    if (id < 0 || id >= vocab_size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("Token id ", id, " is not in the vocabulary of ", vocab_size(), " tokens"));
    }
    if (!(skip_special && impl_->special[id])) out += impl_->bytes[id];
  }
  return out;
}

absl::StatusOr<std::string> Tokenizer::Decode(std::span<const int32_t> ids,
                                              bool skip_special) const {
  LIFT_ASSIGN_OR_RETURN(const std::string bytes, DecodeBytes(ids, skip_special));
  std::string text;
  text.reserve(bytes.size());
  AppendLossyUtf8(bytes, true, text);
  return text;
}

std::string_view Tokenizer::TokenBytes(int32_t id) const {
  return id < 0 || id >= vocab_size() ? std::string_view() : std::string_view(impl_->bytes[id]);
}

bool Tokenizer::IsSpecial(int32_t id) const {
  return id >= 0 && id < vocab_size() && impl_->special[id];
}
int64_t Tokenizer::vocab_size() const { return static_cast<int64_t>(impl_->bytes.size()); }
const TokenizerSpec& Tokenizer::spec() const { return impl_->spec; }

std::string StreamDecoder::Push(int32_t id) {
  if (skip_special_ && tokenizer_.IsSpecial(id)) return {};
  pending_ += tokenizer_.TokenBytes(id);
  std::string text;
  pending_.erase(0, AppendLossyUtf8(pending_, false, text));
  return text;
}

std::string StreamDecoder::Flush() {
  std::string text;
  AppendLossyUtf8(pending_, true, text);
  pending_.clear();
  return text;
}

}  // namespace lift
