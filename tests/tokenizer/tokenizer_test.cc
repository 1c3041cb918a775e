// Properties of encoding and decoding, hostile texts and long ones.
#include "server/tokenizer/tokenizer.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <random>

#include "server/tokenizer/utf8.h"
#include "tests/tokenizer/golden_support.h"

namespace lift {
namespace {

using testing::SmallTokenizer;

std::string RandomText(std::mt19937& random, int characters) {
  std::string text;
  for (int i = 0; i < characters; ++i) {
    static constexpr uint32_t kTops[] = {0x80, 0x250, 0x3000, 0x110000};
    char32_t c = random() % kTops[random() % 4];
    if (c >= 0xD800 && c < 0xE000) c = ' ';
    AppendUtf8(c, text);
  }
  return text;
}

std::string Repeated(const std::string& part, int count) {
  std::string text;
  for (int i = 0; i < count; ++i) text += part;
  return text;
}

double Seconds(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

class RoundTrip : public ::testing::TestWithParam<std::string> {};

TEST_P(RoundTrip, DecodingAnEncodingGivesTheTextBack) {
  const auto tokenizer = SmallTokenizer(GetParam());
  ASSERT_NE(tokenizer, nullptr);
  std::mt19937 random(3);
  for (int i = 0; i < 2000; ++i) {
    const std::string text = RandomText(random, static_cast<int>(random() % 40));
    const auto ids = tokenizer->Encode(text, {.add_special = true, .parse_special = i % 2 == 0});
    ASSERT_TRUE(ids.ok()) << ids.status();
    const auto back = tokenizer->Decode(*ids, true);
    ASSERT_TRUE(back.ok()) << back.status();
    ASSERT_EQ(*back, text);
  }
}

TEST_P(RoundTrip, PlainTextNeverBecomesASpecialId) {
  const auto tokenizer = SmallTokenizer(GetParam());
  ASSERT_NE(tokenizer, nullptr);
  for (const AddedToken& token : tokenizer->spec().added_tokens) {
    for (const std::string& text :
         {token.content, " " + token.content, "x" + token.content + "y"}) {
      const auto ids = tokenizer->Encode(text, {.add_special = false, .parse_special = false});
      ASSERT_TRUE(ids.ok());
      EXPECT_TRUE(std::none_of(ids->begin(), ids->end(), [&](int32_t id) {
        return tokenizer->IsSpecial(id);
      })) << text;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, RoundTrip, ::testing::Values("gpt2", "smollm", "llama3"),
                         [](const auto& info) { return info.param; });

// Ids that stand for single bytes, whatever sequence they make.
std::vector<int32_t> ByteIds(const Tokenizer& tokenizer, std::string_view bytes) {
  std::vector<int32_t> by_byte(256, -1), ids;
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    const std::string_view token = tokenizer.TokenBytes(id);
    if (token.size() == 1) by_byte[static_cast<uint8_t>(token[0])] = id;
  }
  for (const char b : bytes) ids.push_back(by_byte[static_cast<uint8_t>(b)]);
  return ids;
}

void ExpectStreamEqualsDecode(const Tokenizer& tokenizer, const std::vector<int32_t>& ids,
                              bool skip_special) {
  StreamDecoder decoder(tokenizer, skip_special);
  std::string streamed;
  for (const int32_t id : ids) {
    const std::string part = decoder.Push(id);
    EXPECT_EQ(FindInvalidUtf8(part), std::string::npos);
    streamed += part;
  }
  streamed += decoder.Flush();
  const auto whole = tokenizer.Decode(ids, skip_special);
  ASSERT_TRUE(whole.ok()) << whole.status();
  EXPECT_EQ(streamed, *whole);
  EXPECT_EQ(FindInvalidUtf8(streamed), std::string::npos);
}

TEST(StreamDecoder, HoldsBackEveryMultiByteCharacterUntilItIsComplete) {
  const auto tokenizer = SmallTokenizer("gpt2");
  ASSERT_NE(tokenizer, nullptr);
  for (const std::string character :
       {"\x7f", "\u0080", "\u00e9", "\u07ff", "\u0800", "\u4e2d", "\ud7ff", "\ue000", "\uffff",
        "\U00010000", "\U0001F600", "\U0010FFFF"}) {
    const auto ids = ByteIds(*tokenizer, character);
    StreamDecoder decoder(*tokenizer);
    for (size_t i = 0; i + 1 < ids.size(); ++i) EXPECT_EQ(decoder.Push(ids[i]), "");
    EXPECT_EQ(decoder.Push(ids.back()), character);
    EXPECT_EQ(decoder.Flush(), "");
    for (size_t cut = 1; cut < ids.size(); ++cut) {  // an end or another character inside it
      ExpectStreamEqualsDecode(*tokenizer, {ids.begin(), ids.begin() + cut}, true);
      ExpectStreamEqualsDecode(
          *tokenizer, ByteIds(*tokenizer, character.substr(0, cut) + "a" + character), true);
      ExpectStreamEqualsDecode(*tokenizer,
                               ByteIds(*tokenizer, character.substr(0, cut) + character), true);
    }
  }
}

TEST(StreamDecoder, EqualsDecodeForRandomIds) {
  std::mt19937 random(5);
  for (const std::string& name : testing::SmallTokenizerNames()) {
    const auto tokenizer = SmallTokenizer(name);
    ASSERT_NE(tokenizer, nullptr);
    for (int i = 0; i < 500; ++i) {
      std::vector<int32_t> ids(random() % 20);
      for (int32_t& id : ids)
        id = static_cast<int32_t>(random() % (i % 2 ? 260 : tokenizer->vocab_size()));
      ExpectStreamEqualsDecode(*tokenizer, ids, i % 3 == 0);
    }
  }
}

TEST(Decode, ReplacesEachMaximalInvalidSubpart) {
  const auto tokenizer = SmallTokenizer("gpt2");
  ASSERT_NE(tokenizer, nullptr);
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"\xF0\x9F\x98", "\uFFFD"},
      {"\xF0\x9F\x41",
       "\uFFFD"
       "A"},
      {"\x80\x80", "\uFFFD\uFFFD"},
      {"\xED\xA0\x80", "\uFFFD\uFFFD\uFFFD"},
      {"\xC0\xAF", "\uFFFD\uFFFD"},
      {"\xF4\x90\x80", "\uFFFD\uFFFD\uFFFD"},
      {"\xE2\x82", "\uFFFD"},
      {"\xE0\x80\x80", "\uFFFD\uFFFD\uFFFD"},
      {"\xF5\xFF", "\uFFFD\uFFFD"},
      {"a\xC3", "a\uFFFD"},
  };
  for (const auto& [bytes, text] : cases) {
    const auto ids = ByteIds(*tokenizer, bytes);
    const auto raw = tokenizer->DecodeBytes(ids, true);
    ASSERT_TRUE(raw.ok());
    EXPECT_EQ(*raw, bytes);
    EXPECT_EQ(*tokenizer->Decode(ids, true), text);
  }
}

TEST(Decode, RefusesIdsOutsideTheVocabulary) {
  const auto tokenizer = SmallTokenizer("gpt2");
  ASSERT_NE(tokenizer, nullptr);
  for (const int32_t id :
       {-1, static_cast<int32_t>(tokenizer->vocab_size()), INT32_MAX, INT32_MIN}) {
    const std::vector<int32_t> ids = {0, id};
    EXPECT_EQ(tokenizer->Decode(ids, true).status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(tokenizer->TokenBytes(id), "");
    EXPECT_FALSE(tokenizer->IsSpecial(id));
    EXPECT_EQ(StreamDecoder(*tokenizer).Push(id), "");
  }
}

TEST(Encode, RefusesInvalidUtf8WithTheOffset) {
  const auto tokenizer = SmallTokenizer("gpt2");
  ASSERT_NE(tokenizer, nullptr);
  for (const std::string tail :
       {"\xFF", "\xC3", "\xED\xA0\x80", "\xF8\x88\x80\x80\x80", "\xC0\x80", "\xE2\x82"}) {
    const auto ids = tokenizer->Encode("h\u00e9y" + tail);
    EXPECT_EQ(ids.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(ids.status().message().find("byte 4"), absl::string_view::npos) << ids.status();
  }
}

TEST(Encode, StaysFastOnLongTexts) {
  const std::vector<std::string> texts = {
      Repeated("a", 150'000),         Repeated("ab", 50'000),
      Repeated(" ", 150'000),         Repeated("\n", 100'000),
      Repeated(" \n", 50'000),        Repeated("1", 100'000),
      Repeated("!", 100'000),         Repeated("the", 40'000),
      Repeated("\u0301", 50'000),     Repeated("\u0323\u0301", 30'000),
      Repeated("\U0001F600", 20'000), Repeated("<|im_start", 10'000),
      Repeated(" ", 100'000) + "x",   Repeated("'s", 50'000),
      Repeated("<|im_end|>", 10'000), Repeated("hello world ", 10'000),
  };
  for (const std::string& name : testing::SmallTokenizerNames()) {
    const auto tokenizer = SmallTokenizer(name);
    ASSERT_NE(tokenizer, nullptr);
    for (const std::string& text : texts) {
      // n log n takes well below a second; n^2 takes minutes.
      const double seconds = Seconds([&] {
        const auto ids = tokenizer->Encode(text);
        EXPECT_TRUE(ids.ok()) << ids.status();
      });
      EXPECT_LT(seconds, 5) << name << " " << text.substr(0, 12);
    }
  }
}

TEST(Encode, EndsHostilePatternsWithAClearError) {
  TokenizerSpec spec = SmallTokenizer("gpt2")->spec();
  spec.splits = {{"(?:a+)+b|(?:(?:x|y|xy)+)+$z", "isolated", false}};
  const auto tokenizer = Tokenizer::Create(spec);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  for (const std::string& text : {Repeated("a", 5000), Repeated("xy", 3000) + "!"}) {
    const auto ids = (*tokenizer)->Encode(text);
    EXPECT_EQ(ids.status().code(), absl::StatusCode::kResourceExhausted) << ids.status();
    EXPECT_NE(ids.status().message().find("match limits"), absl::string_view::npos);
  }
}

TEST(Create, RefusesPatternsThatPcreReadsDifferently) {
  const TokenizerSpec good = SmallTokenizer("gpt2")->spec();
  for (const char* pattern : {"[a&&b]", "[a[b]]", "\\h+", "a\\Kb", "\\Qx\\E"}) {
    TokenizerSpec spec = good;
    spec.splits = {{pattern, "isolated", false}};
    EXPECT_EQ(Tokenizer::Create(spec).status().code(), absl::StatusCode::kUnimplemented) << pattern;
  }
  for (const char* pattern : {"(", "[a", "*", "\\p{Nonsense}", "a{2,1}", "[[:alpha", "(?<n"}) {
    TokenizerSpec spec = good;
    spec.splits = {{pattern, "isolated", false}};
    EXPECT_EQ(Tokenizer::Create(spec).status().code(), absl::StatusCode::kInvalidArgument)
        << pattern;
  }
}

}  // namespace
}  // namespace lift
