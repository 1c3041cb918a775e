// SentencePiece models against PyPI's sentencepiece (tests/golden/make_sentencepiece_goldens.py),
// and files that are wrong.
#include "server/tokenizer/sentencepiece.h"

#include <gmock/gmock.h>

#include "server/model/checkpoint/gguf.h"
#include "server/tokenizer/gguf_spec.h"
#include "server/tokenizer/sentencepiece_file.h"
#include "server/tokenizer/utf8.h"
#include "tests/tokenizer/golden_support.h"

namespace lift {
namespace {

using ::testing::HasSubstr;
using testing::Json;

const std::string kFolder = std::string(LIFT_TEST_DATA) + "/sentencepiece/";

std::shared_ptr<const Tokenizer> Open(const std::string& name) {
  const auto spec = ParseSentencePieceModel(testing::ReadText(kFolder + name + ".model"));
  EXPECT_TRUE(spec.ok()) << spec.status();
  if (!spec.ok()) return nullptr;
  const auto tokenizer = Tokenizer::Create(*spec);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return tokenizer.ok() ? *tokenizer : nullptr;
}

void ExpectEncodings(const Tokenizer& tokenizer, const std::string& name) {
  int failures = 0, compared = 0, decoded = 0;
  std::istringstream lines(testing::ReadText(kFolder + "encode.jsonl"));
  for (std::string line; std::getline(lines, line);) {
    const Json row = Json::parse(line);
    const auto ids = tokenizer.Encode(row["text"].get<std::string>(),
                                      {.add_special = false, .parse_special = false});
    ASSERT_TRUE(ids.ok()) << ids.status();
    ++compared;
    if (!testing::SameIds(*ids, row["ids"][name]) && ++failures <= 10) {
      ADD_FAILURE() << name << ": " << row["text"].dump().substr(0, 200) << "\n  gives "
                    << Json(*ids).dump().substr(0, 400) << "\n  not   " << row["ids"][name].dump();
    }
    if (!row.contains("decoded") || !row["decoded"].contains(name)) continue;
    ++decoded;
    std::string text = *tokenizer.Decode(*ids, false);
    // The original takes the space away that it put in front; a stream cannot know its beginning.
    if (tokenizer.spec().sentencepiece.add_dummy_prefix && text.starts_with(' ')) text.erase(0, 1);
    EXPECT_EQ(text, row["decoded"][name].get<std::string>()) << row["text"].dump();
  }
  EXPECT_GE(compared, 2000);
  EXPECT_GE(decoded, 200);
  EXPECT_EQ(failures, 0) << name;
}

class SentencePieceGolden : public ::testing::TestWithParam<const char*> {};

TEST_P(SentencePieceGolden, EncodesAndDecodesAsTheOriginal) {
  const auto tokenizer = Open(GetParam());
  ASSERT_NE(tokenizer, nullptr);
  ExpectEncodings(*tokenizer, GetParam());
}

TEST_P(SentencePieceGolden, SurvivesItsOwnJson) {
  const auto tokenizer = Open(GetParam());
  ASSERT_NE(tokenizer, nullptr);
  auto spec = TokenizerSpec::FromJson(tokenizer->spec().ToJson());
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->ToJson(), tokenizer->spec().ToJson());
  const auto again = Tokenizer::Create(*std::move(spec));
  ASSERT_TRUE(again.ok()) << again.status();
  ExpectEncodings(**again, GetParam());
}

INSTANTIATE_TEST_SUITE_P(All, SentencePieceGolden,
                         ::testing::Values("llama", "bpe_nfkc", "unigram", "unigram_rules"),
                         [](const auto& info) { return std::string(info.param); });

TEST(SentencePiece, GgufMetadataGivesTheSameIds) {
  const auto file = GgufFile::Open(kFolder + "llama.gguf");
  ASSERT_TRUE(file.ok()) << file.status();
  const auto spec = ReadGgufTokenizer(**file);
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_TRUE(spec->add_bos);  // as llama.cpp assumes
  EXPECT_EQ(spec->bos_token, "<s>");
  const auto tokenizer = Tokenizer::Create(*spec);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  ExpectEncodings(**tokenizer, "llama");
}

TEST(SentencePiece, FolderSaysBosTokensBeyondThePiecesAndTemplate) {
  HuggingFaceTokenizerFiles files;
  files.tokenizer_config =
      R"({"tokenizer_class":"LlamaTokenizer","bos_token":"<s>","eos_token":"<|end|>",
      "added_tokens_decoder":{"900":{"content":"<|end|>","special":true},"901":{"content":"tool","special":false}},
      "chat_template":"{{ bos_token }}"})";
  const auto spec =
      ParseHuggingFaceSentencePiece(testing::ReadText(kFolder + "llama.model"), files);
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_TRUE(spec->add_bos);
  EXPECT_EQ(spec->eos_id, 900);
  EXPECT_EQ(spec->chat_template, "{{ bos_token }}");
  const auto tokenizer = Tokenizer::Create(*spec);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto ids = (*tokenizer)->Encode("a<|end|>");
  ASSERT_TRUE(ids.ok());
  EXPECT_EQ(ids->front(), 1);
  EXPECT_EQ(ids->back(), 900);
  EXPECT_EQ(*(*tokenizer)->Decode(*ids, true), " a");
  EXPECT_EQ((*tokenizer)->TokenBytes(901), "tool");
}

TEST(SentencePiece, StreamsBytesOfOneCharacterTogether) {
  const auto tokenizer = Open("llama");
  ASSERT_NE(tokenizer, nullptr);
  const std::string text = "x \xF0\x9F\xAB\xA0";  // not in the vocabulary: four byte pieces
  const auto ids = tokenizer->Encode(text, {.add_special = false});
  ASSERT_TRUE(ids.ok());
  StreamDecoder stream(*tokenizer);
  std::string out;
  for (const int32_t id : *ids) {
    const std::string piece = stream.Push(id);
    EXPECT_EQ(FindInvalidUtf8(piece), std::string_view::npos);
    out += piece;
  }
  EXPECT_EQ(out + stream.Flush(), " " + text);
}

TEST(SentencePiece, WrongFilesAreRefused) {
  const std::string good = testing::ReadText(kFolder + "bpe_nfkc.model");
  EXPECT_THAT(std::string(ParseSentencePieceModel("").status().message()), HasSubstr("no pieces"));
  EXPECT_THAT(std::string(ParseSentencePieceModel("hello").status().message()),
              HasSubstr("tokenizer.model"));
  for (size_t n = 1; n < good.size(); n += 997) {
    const auto spec = ParseSentencePieceModel(std::string_view(good).substr(0, n));
    if (spec.ok()) continue;  // cut between two pieces
    EXPECT_EQ(spec.status().code(), absl::StatusCode::kInvalidArgument) << n;
  }
  // trainer_spec {model_type: WORD} after the pieces; the last value of a field counts.
  EXPECT_EQ(ParseSentencePieceModel(good + "\x12\x02\x18\x03").status().code(),
            absl::StatusCode::kUnimplemented);
  // normalizer_spec {precompiled_charsmap: "\xff\xff\xff\xff"}: a trie longer than the map.
  EXPECT_THAT(
      std::string(
          ParseSentencePieceModel(good + "\x1a\x06\x12\x04\xff\xff\xff\xff").status().message()),
      HasSubstr("precompiled_charsmap"));
  // trainer_spec {byte_fallback: true} without byte pieces.
  const auto spec = ParseSentencePieceModel(good + std::string("\x12\x03\x98\x02\x01", 5));
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_THAT(std::string(Tokenizer::Create(*spec).status().message()), HasSubstr("byte_fallback"));
}

}  // namespace
}  // namespace lift
