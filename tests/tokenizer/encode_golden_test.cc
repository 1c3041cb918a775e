// Ids and texts equal to those of Hugging Face `tokenizers`; the goldens are made by
// tests/golden/make_tokenizer_goldens.py.
#include "server/model/checkpoint/gguf.h"
#include "server/tokenizer/gguf_spec.h"
#include "tests/tokenizer/golden_support.h"

namespace lift {
namespace {

using testing::Json;

void ExpectEncodings(const Tokenizer& tokenizer, const std::string& name) {
  int failures = 0, compared = 0;
  for (const Json& row : testing::ReadJsonLines("encode.jsonl")) {
    const std::string text = testing::TextOf(row["text"]);
    const auto ids = tokenizer.Encode(text);
    ASSERT_TRUE(ids.ok()) << ids.status();
    ++compared;
    if (!testing::SameIds(*ids, row["ids"][name]) && ++failures <= 10) {
      ADD_FAILURE() << name << ": " << row["text"].dump().substr(0, 200) << "\n  gives "
                    << Json(*ids).dump().substr(0, 400) << "\n  not   " << row["ids"][name].dump();
    }
    if (!row.contains("plain")) continue;
    const auto plain = tokenizer.Encode(text, {.add_special = false, .parse_special = false});
    ASSERT_TRUE(plain.ok()) << plain.status();
    if (!testing::SameIds(*plain, row["plain"][name]) && ++failures <= 10) {
      ADD_FAILURE() << name << " as plain text: " << row["text"].dump().substr(0, 200)
                    << "\n  gives " << Json(*plain).dump().substr(0, 400) << "\n  not   "
                    << row["plain"][name].dump();
    }
  }
  EXPECT_GE(compared, 2000);
  EXPECT_EQ(failures, 0) << name;
}

void ExpectDecodings(const Tokenizer& tokenizer, const std::string& name) {
  int compared = 0;
  for (const Json& row : testing::ReadJsonLines("decode.jsonl")) {
    if (row["tokenizer"] != name) continue;
    ++compared;
    const auto ids = row["ids"].get<std::vector<int32_t>>();
    for (const bool skip : {false, true}) {
      const auto text = tokenizer.Decode(ids, skip);
      ASSERT_TRUE(text.ok()) << text.status();
      EXPECT_EQ(*text, row[skip ? "skip" : "all"].get<std::string>())
          << name << " " << row["ids"].dump();
    }
  }
  EXPECT_GE(compared, 50) << name;
}

class SmallTokenizerGolden : public ::testing::TestWithParam<std::string> {};

TEST_P(SmallTokenizerGolden, EncodesAsTokenizersDoes) {
  const auto tokenizer = testing::SmallTokenizer(GetParam());
  ASSERT_NE(tokenizer, nullptr);
  ExpectEncodings(*tokenizer, GetParam());
}

TEST_P(SmallTokenizerGolden, DecodesAsTokenizersDoes) {
  const auto tokenizer = testing::SmallTokenizer(GetParam());
  ASSERT_NE(tokenizer, nullptr);
  ExpectDecodings(*tokenizer, GetParam());
}

TEST_P(SmallTokenizerGolden, SurvivesItsOwnJson) {
  const auto tokenizer = testing::SmallTokenizer(GetParam());
  ASSERT_NE(tokenizer, nullptr);
  auto spec = TokenizerSpec::FromJson(tokenizer->spec().ToJson());
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->ToJson(), tokenizer->spec().ToJson());
  const auto again = Tokenizer::Create(*std::move(spec));
  ASSERT_TRUE(again.ok()) << again.status();
  ExpectEncodings(**again, GetParam());
}

INSTANTIATE_TEST_SUITE_P(All, SmallTokenizerGolden,
                         ::testing::ValuesIn(testing::SmallTokenizerNames()),
                         [](const auto& info) { return info.param; });

class SmolLm2Golden : public ::testing::Test {
 protected:
  void SetUp() override {
    const char* path = std::getenv("LIFT_TEST_MODEL");
    if (path == nullptr)
      GTEST_SKIP() << "LIFT_TEST_MODEL (path of SmolLM2-135M-Instruct.Q4_1.gguf) is not set";
    const auto file = GgufFile::Open(path);
    ASSERT_TRUE(file.ok()) << file.status();
    auto spec = ReadGgufTokenizer(**file);
    ASSERT_TRUE(spec.ok()) << spec.status();
    const auto tokenizer = Tokenizer::Create(*std::move(spec));
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = *tokenizer;
  }
  std::shared_ptr<const Tokenizer> tokenizer_;
};

TEST_F(SmolLm2Golden, EncodesAsTokenizersDoes) { ExpectEncodings(*tokenizer_, "smollm2"); }
TEST_F(SmolLm2Golden, DecodesAsTokenizersDoes) { ExpectDecodings(*tokenizer_, "smollm2"); }

TEST_F(SmolLm2Golden, KnowsItsSpecialTokens) {
  EXPECT_EQ(tokenizer_->vocab_size(), 49152);
  EXPECT_TRUE(tokenizer_->IsSpecial(1));
  EXPECT_FALSE(tokenizer_->IsSpecial(100));
  const TokenizerSpec& spec = tokenizer_->spec();
  EXPECT_EQ(spec.eos_id, 2);
  EXPECT_EQ(spec.eos_ids, (std::vector<int32_t>{2, 0}));
  EXPECT_FALSE(spec.add_bos);
  EXPECT_EQ(spec.eos_token, "<|im_end|>");
  EXPECT_FALSE(spec.chat_template.empty());
}

}  // namespace
}  // namespace lift
