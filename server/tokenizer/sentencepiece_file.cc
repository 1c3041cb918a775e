#include "server/tokenizer/sentencepiece_file.h"

#include <bit>
#include <cmath>
#include <optional>

#include "absl/strings/str_cat.h"

namespace lift {
namespace {

using Kind = SentencePieceSpec::Kind;

absl::Status Invalid(absl::string_view a, const auto&... rest) {
  return absl::InvalidArgumentError(absl::StrCat("tokenizer.model: ", a, rest...));
}

// One field of a protobuf message.
struct Field {
  uint32_t number = 0, wire_type = 0;
  uint64_t value = 0;      // varint and fixed
  std::string_view bytes;  // length-delimited
};

// Walks the fields of a message; groups (obsolete) and truncated fields are errors.
class FieldReader {
 public:
  explicit FieldReader(std::string_view bytes) : rest_(bytes) {}

  // Nothing at the end of the message.
  absl::StatusOr<std::optional<Field>> Next() {
    if (rest_.empty()) return std::nullopt;
    Field field;
    LIFT_ASSIGN_OR_RETURN(const uint64_t tag, Varint());
    field.wire_type = tag & 7;
    if (tag >> 3 == 0 || tag >> 3 > (1u << 29)) return Invalid("it has a field without a number");
    field.number = static_cast<uint32_t>(tag >> 3);
    switch (field.wire_type) {
      case 0: {
        LIFT_ASSIGN_OR_RETURN(field.value, Varint());
        return field;
      }
      case 1:
        LIFT_RETURN_IF_ERROR(Fixed(8, field));
        return field;
      case 5:
        LIFT_RETURN_IF_ERROR(Fixed(4, field));
        return field;
      case 2: {
        LIFT_ASSIGN_OR_RETURN(const uint64_t size, Varint());
        if (size > rest_.size()) return Invalid("it is truncated");
        field.bytes = rest_.substr(0, size);
        rest_.remove_prefix(size);
        return field;
      }
      default:
        return Invalid("wire type ", field.wire_type, " is unknown; it is no SentencePiece model");
    }
  }

 private:
  absl::StatusOr<uint64_t> Varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64 && !rest_.empty(); shift += 7) {
      const auto byte = static_cast<uint8_t>(rest_[0]);
      rest_.remove_prefix(1);
      value |= static_cast<uint64_t>(byte & 127) << shift;
      if (byte < 128) return value;
    }
    return Invalid("it is truncated");
  }
  absl::Status Fixed(size_t size, Field& field) {
    if (rest_.size() < size) return Invalid("it is truncated");
    for (size_t i = size; i-- > 0;) field.value = field.value << 8 | static_cast<uint8_t>(rest_[i]);
    rest_.remove_prefix(size);
    return absl::OkStatus();
  }
  std::string_view rest_;
};

absl::Status ForEach(std::string_view message, const auto& body) {
  FieldReader reader(message);
  for (;;) {
    LIFT_ASSIGN_OR_RETURN(const std::optional<Field> field, reader.Next());
    if (!field) return absl::OkStatus();
    LIFT_RETURN_IF_ERROR(body(*field));
  }
}

absl::Status ReadPiece(std::string_view message, TokenizerSpec& spec) {
  std::string piece;
  float score = 0;
  uint64_t kind = 1;
  LIFT_RETURN_IF_ERROR(ForEach(message, [&](const Field& field) -> absl::Status {
    if (field.number == 1 && field.wire_type == 2) piece = std::string(field.bytes);
    if (field.number == 2 && field.wire_type == 5)
      score = std::bit_cast<float>(static_cast<uint32_t>(field.value));
    if (field.number == 3 && field.wire_type == 0) kind = field.value;
    return absl::OkStatus();
  }));
  if (!(std::abs(score) <= 1e30f))
    return Invalid("piece ", spec.tokens.size(), " has no finite score");
  if (kind < 1 || kind > 6) return Invalid("piece ", spec.tokens.size(), " has type ", kind);
  spec.tokens.push_back(std::move(piece));
  spec.sentencepiece.scores.push_back(score);
  spec.sentencepiece.kinds.push_back(static_cast<Kind>(kind));
  return absl::OkStatus();
}

struct TrainerSpec {
  int64_t model_type = 1, unk = 0, bos = 1, eos = 2, pad = -1;
  bool suffix = false, byte_fallback = false;
};

absl::Status ReadTrainer(std::string_view message, TrainerSpec& trainer) {
  return ForEach(message, [&](const Field& field) -> absl::Status {
    if (field.wire_type != 0) return absl::OkStatus();
    const auto value = static_cast<int64_t>(field.value);
    switch (field.number) {
      case 3:
        trainer.model_type = value;
        break;
      case 24:
        trainer.suffix = value != 0;
        break;
      case 35:
        trainer.byte_fallback = value != 0;
        break;
      case 40:
        trainer.unk = value;
        break;
      case 41:
        trainer.bos = value;
        break;
      case 42:
        trainer.eos = value;
        break;
      case 43:
        trainer.pad = value;
        break;
      default:
        break;
    }
    return absl::OkStatus();
  });
}

absl::Status ReadNormalizer(std::string_view message, SentencePieceSpec& out) {
  return ForEach(message, [&](const Field& field) -> absl::Status {
    if (field.number == 2 && field.wire_type == 2) out.charsmap = std::string(field.bytes);
    if (field.wire_type != 0) return absl::OkStatus();
    if (field.number == 3) out.add_dummy_prefix = field.value != 0;
    if (field.number == 4) out.remove_extra_whitespaces = field.value != 0;
    if (field.number == 5) out.escape_whitespaces = field.value != 0;
    return absl::OkStatus();
  });
}

absl::Status ApplyTrainer(const TrainerSpec& trainer, TokenizerSpec& spec) {
  if (trainer.model_type != 1 && trainer.model_type != 2) {
    return absl::UnimplementedError(absl::StrCat("tokenizer.model: model type ", trainer.model_type,
                                                 " is not supported; unigram and BPE are"));
  }
  if (trainer.suffix) {
    return absl::UnimplementedError(
        "tokenizer.model: treat_whitespace_as_suffix is not supported; retrain without it");
  }
  spec.type = trainer.model_type == 1 ? "sentencepiece_unigram" : "sentencepiece_bpe";
  spec.sentencepiece.byte_fallback = trainer.byte_fallback;
  const auto count = static_cast<int64_t>(spec.tokens.size());
  const std::pair<int64_t, int32_t*> ids[] = {
      {trainer.bos, &spec.bos_id}, {trainer.eos, &spec.eos_id}, {trainer.pad, &spec.pad_id}};
  for (const auto& [id, to] : ids) *to = id >= 0 && id < count ? static_cast<int32_t>(id) : -1;
  for (size_t i = 0; i < spec.tokens.size(); ++i) {
    if (spec.sentencepiece.kinds[i] == Kind::kUnknown) spec.unk_id = static_cast<int32_t>(i);
  }
  return absl::OkStatus();
}

}  // namespace

void AddControlTokens(TokenizerSpec& spec) {
  for (size_t i = 0; i < spec.sentencepiece.kinds.size(); ++i) {
    if (spec.sentencepiece.kinds[i] != Kind::kControl || spec.tokens[i].empty()) continue;
    AddedToken token;
    token.id = static_cast<int32_t>(i);
    token.content = spec.tokens[i];
    token.special = true;
    spec.added_tokens.push_back(std::move(token));
  }
}

absl::StatusOr<TokenizerSpec> ParseSentencePieceModel(std::string_view bytes) {
  TokenizerSpec spec;
  TrainerSpec trainer;
  LIFT_RETURN_IF_ERROR(ForEach(bytes, [&](const Field& field) -> absl::Status {
    if (field.wire_type != 2) return absl::OkStatus();
    if (field.number == 1) return ReadPiece(field.bytes, spec);
    if (field.number == 2) return ReadTrainer(field.bytes, trainer);
    if (field.number == 3) return ReadNormalizer(field.bytes, spec.sentencepiece);
    return absl::OkStatus();
  }));
  if (spec.tokens.empty()) return Invalid("it has no pieces; it is no SentencePiece model");
  LIFT_RETURN_IF_ERROR(ApplyTrainer(trainer, spec));
  AddControlTokens(spec);
  if (spec.bos_id >= 0) spec.bos_token = spec.tokens[static_cast<size_t>(spec.bos_id)];
  if (spec.eos_id >= 0) spec.eos_token = spec.tokens[static_cast<size_t>(spec.eos_id)];
  if (spec.eos_id >= 0) spec.eos_ids.push_back(spec.eos_id);
  LIFT_RETURN_IF_ERROR(ValidateTokenizerSpec(spec));
  return spec;
}

}  // namespace lift
