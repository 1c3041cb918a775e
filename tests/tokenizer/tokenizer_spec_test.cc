// Reading tokenizers from JSON and GGUF: what is taken, what is refused and how, and that damage
// never crashes.
#include "server/tokenizer/tokenizer_spec.h"

#include <functional>
#include <random>

#include "server/model/checkpoint/gguf.h"
#include "server/tokenizer/gguf_spec.h"
#include "server/tokenizer/pretokenizer_patterns.h"
#include "tests/tokenizer/golden_support.h"

namespace lift {
namespace {

using testing::Json;

Json GoodTokenizer() { return Json::parse(testing::ReadText(testing::GoldenPath("gpt2.json"))); }

absl::StatusOr<TokenizerSpec> Parse(const Json& tokenizer, const std::string& config = "",
                                    const std::string& generation = "",
                                    const std::string& chat_template = "") {
  return ParseHuggingFaceTokenizer({tokenizer.dump(), config, generation, chat_template});
}

// Changes a good tokenizer.json and expects the code, and `what` in the message.
void ExpectRefused(absl::StatusCode code, const std::string& what,
                   const std::function<void(Json&)>& change) {
  Json json = GoodTokenizer();
  change(json);
  const absl::Status status = Parse(json).status();
  EXPECT_EQ(status.code(), code) << what << ": " << status;
  EXPECT_NE(status.message().find(what), absl::string_view::npos) << status;
}

TEST(HuggingFaceSpec, RefusesUnsupportedComponentsByName) {
  const auto unsupported = absl::StatusCode::kUnimplemented;
  ExpectRefused(unsupported, "Unigram", [](Json& j) { j["model"]["type"] = "Unigram"; });
  ExpectRefused(unsupported, "WordPiece", [](Json& j) { j["model"]["type"] = "WordPiece"; });
  ExpectRefused(unsupported, "byte_fallback", [](Json& j) { j["model"]["byte_fallback"] = true; });
  ExpectRefused(unsupported, "dropout", [](Json& j) { j["model"]["dropout"] = 0.1; });
  ExpectRefused(unsupported, "end_of_word_suffix",
                [](Json& j) { j["model"]["end_of_word_suffix"] = "</w>"; });
  ExpectRefused(unsupported, "Metaspace", [](Json& j) {
    j["pre_tokenizer"] = {{"type", "Metaspace"}};
  });
  ExpectRefused(unsupported, "ByteLevel", [](Json& j) { j["pre_tokenizer"] = nullptr; });
  ExpectRefused(unsupported, "Whitespace", [](Json& j) {
    j["pre_tokenizer"] = {{"type", "Sequence"},
                          {"pretokenizers", {{{"type", "ByteLevel"}}, {{"type", "Whitespace"}}}}};
  });
  ExpectRefused(unsupported, "Lowercase", [](Json& j) {
    j["normalizer"] = {{"type", "Lowercase"}};
  });
  ExpectRefused(unsupported, "Sequence", [](Json& j) {
    j["normalizer"] = {{"type", "Sequence"},
                       {"normalizers", {{{"type", "NFC"}}, {{"type", "NFD"}}}}};
  });
  ExpectRefused(unsupported, "RobertaProcessing", [](Json& j) {
    j["post_processor"] = {{"type", "RobertaProcessing"}};
  });
  ExpectRefused(unsupported, "WordPiece", [](Json& j) { j["decoder"] = {{"type", "WordPiece"}}; });
  ExpectRefused(unsupported, "decoder", [](Json& j) { j["decoder"] = nullptr; });
}

TEST(HuggingFaceSpec, RefusesMalformedContent) {
  const auto invalid = absl::StatusCode::kInvalidArgument;
  ExpectRefused(invalid, "\"model\"", [](Json& j) { j.erase("model"); });
  ExpectRefused(invalid, "vocab", [](Json& j) { j["model"]["vocab"] = Json::array(); });
  ExpectRefused(invalid, "merges", [](Json& j) { j["model"].erase("merges"); });
  ExpectRefused(invalid, "merge", [](Json& j) { j["model"]["merges"].push_back("a b c"); });
  ExpectRefused(invalid, "merge", [](Json& j) { j["model"]["merges"].push_back(3); });
  ExpectRefused(invalid, "not in the vocabulary", [](Json& j) {
    j["model"]["merges"].push_back({"zz", "qq"});
  });
  ExpectRefused(invalid, "two tokens have the id",
                [](Json& j) { j["model"]["vocab"]["brand-new"] = 5; });
  ExpectRefused(invalid, "out of range", [](Json& j) { j["model"]["vocab"]["brand-new"] = -5; });
  ExpectRefused(invalid, "out of range",
                [](Json& j) { j["model"]["vocab"]["brand-new"] = 18446744073709551615u; });
  ExpectRefused(invalid, "far beyond", [](Json& j) { j["model"]["vocab"]["brand-new"] = 1 << 29; });
  ExpectRefused(invalid, "whole number", [](Json& j) { j["model"]["vocab"]["brand-new"] = "5"; });
  ExpectRefused(invalid, "far beyond", [](Json& j) {
    j["added_tokens"].push_back({{"id", 2000000000}, {"content", "x-new"}});
  });
  ExpectRefused(invalid, "\"id\"", [](Json& j) {
    j["added_tokens"].push_back({{"id", 20000000000}, {"content", "x-new"}});
  });
  ExpectRefused(invalid, "another id", [](Json& j) {
    j["added_tokens"].push_back({{"id", 1}, {"content", "\u0120the"}});
  });
  ExpectRefused(invalid, "\"content\"", [](Json& j) { j["added_tokens"][0]["content"] = 5; });
  ExpectRefused(invalid, "\"special\"", [](Json& j) { j["added_tokens"][0]["special"] = "yes"; });
  ExpectRefused(invalid, "two added tokens",
                [](Json& j) { j["added_tokens"].push_back(j["added_tokens"][0]); });
  ExpectRefused(invalid, "unk_token", [](Json& j) { j["model"]["unk_token"] = "<nope>"; });
  ExpectRefused(invalid, "TemplateProcessing", [](Json& j) {
    j["post_processor"] = {{"type", "TemplateProcessing"},
                           {"single", {{{"SpecialToken", {{"id", "<s>"}}}}}}};
  });
  ExpectRefused(invalid, "pattern", [](Json& j) { j["pre_tokenizer"] = {{"type", "Split"}}; });
}

TEST(HuggingFaceSpec, RefusesWhatIsNotJsonAndLoneSurrogates) {
  for (const std::string& text :
       {std::string(), std::string("{"), std::string("[]"), std::string("null"),
        std::string("\"\\ud800\""),
        std::string(R"({"model":{"type":"BPE","vocab":{"\ud800":0},"merges":[]}})"),
        std::string("\xff"), std::string(R"({"a":1e999})"), std::string(1000, '['),
        std::string("{\"model\":3}")}) {
    HuggingFaceTokenizerFiles files;
    files.tokenizer = text;
    EXPECT_EQ(ParseHuggingFaceTokenizer(files).status().code(), absl::StatusCode::kInvalidArgument)
        << text.substr(0, 60);
    EXPECT_EQ(TokenizerSpec::FromJson(text).ok(), false) << text.substr(0, 60);
  }
}

TEST(HuggingFaceSpec, ReadsTokensFlagsAndTemplatesFromTheOtherFiles) {
  const auto spec = Parse(
      GoodTokenizer(),
      R"({"bos_token": {"content": "<|im_start|>"}, "eos_token": "<|im_end|>", "pad_token": null, "add_bos_token": true,
                              "chat_template": [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]})",
      R"({"eos_token_id": [2, 0]})");
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->bos_id, 1);
  EXPECT_EQ(spec->eos_id, 2);
  EXPECT_EQ(spec->eos_ids, (std::vector<int32_t>{2, 0}));
  EXPECT_TRUE(spec->add_bos);
  EXPECT_FALSE(spec->add_eos);
  EXPECT_EQ(spec->chat_template, "D");
  EXPECT_EQ(spec->eos_token, "<|im_end|>");
  const auto separate =
      Parse(GoodTokenizer(), R"({"chat_template": "config"})", R"({"eos_token_id": 1})", "file");
  ASSERT_TRUE(separate.ok()) << separate.status();
  EXPECT_EQ(separate->chat_template, "file");
  EXPECT_EQ(separate->eos_ids, (std::vector<int32_t>{1}));
  EXPECT_FALSE(Parse(GoodTokenizer(), R"({"bos_token": 5})").ok());
  EXPECT_FALSE(Parse(GoodTokenizer(), "{").ok());
  EXPECT_FALSE(Parse(GoodTokenizer(), "{}", R"({"eos_token_id": 99999999})").ok());
}

TEST(HuggingFaceSpec, TakesMergesAsTextsOrPairs) {
  Json json = GoodTokenizer();
  for (Json& merge : json["model"]["merges"])
    merge = merge[0].get<std::string>() + " " + merge[1].get<std::string>();
  const auto texts = Parse(json), pairs = Parse(GoodTokenizer());
  ASSERT_TRUE(texts.ok()) << texts.status();
  ASSERT_TRUE(pairs.ok()) << pairs.status();
  EXPECT_EQ(texts->merges, pairs->merges);
}

TEST(HuggingFaceSpec, MissingFolderSaysWhatToDo) {
  const auto spec = LoadHuggingFaceTokenizer("/nonexistent-folder");
  EXPECT_EQ(spec.status().code(), absl::StatusCode::kNotFound);
  EXPECT_NE(spec.status().message().find("tokenizer.json"), absl::string_view::npos);
}

TEST(SpecJson, RefusesDamage) {
  const Json good = Json::parse(Parse(GoodTokenizer())->ToJson());
  ASSERT_TRUE(TokenizerSpec::FromJson(good.dump()).ok());
  const std::vector<std::function<void(Json&)>> changes = {
      [](Json& j) { j["type"] = "unigram"; },
      [](Json& j) { j["version"] = 2; },
      [](Json& j) { j["tokens"] = Json::array(); },
      [](Json& j) { j["tokens"][3] = 3; },
      [](Json& j) { j.erase("tokens"); },
      [](Json& j) { j["merges"].push_back("zz qq"); },
      [](Json& j) { j["merges"] = 1; },
      [](Json& j) { j["splits"] = "x"; },
      [](Json& j) { j["splits"][0]["behavior"] = "x"; },
      [](Json& j) { j["splits"][0]["pattern"] = 1; },
      [](Json& j) { j["bos_id"] = 1 << 20; },
      [](Json& j) { j["eos_ids"] = {-3}; },
      [](Json& j) { j["eos_ids"] = {"a"}; },
      [](Json& j) { j["eos_id"] = 1.5; },
      [](Json& j) { j["eos_id"] = 4294967296; },
      [](Json& j) { j["unk_id"] = -7; },
      [](Json& j) { j["normalizer"] = "strip"; },
      [](Json& j) { j["prefix_space_at"] = 9; },
      [](Json& j) { j["add_bos"] = true; },
      [](Json& j) { j["added_tokens"][0]["id"] = j["added_tokens"][1]["id"]; },
      [](Json& j) { j["added_tokens"][0].erase("id"); },
      [](Json& j) { j["added_tokens"][0]["content"] = ""; },
      [](Json& j) { j["added_tokens"][0]["content"] = std::string(5000, 'x'); },
      [](Json& j) { j["chat_template"] = std::string(2 << 20, 'x'); },
      [](Json& j) {
        j["splits"] = Json::array();
        for (int i = 0; i < 100; ++i) j["splits"].push_back({{"pattern", "a"}});
      },
  };
  for (size_t i = 0; i < changes.size(); ++i) {
    Json json = good;
    changes[i](json);
    EXPECT_FALSE(TokenizerSpec::FromJson(json.dump()).ok()) << "change " << i;
  }
}

TEST(SpecJson, FlippedBytesNeverCrash) {
  std::mt19937 random(9);
  const std::string hf = testing::ReadText(testing::GoldenPath("flags.json"));
  const std::string ours = testing::SmallTokenizer("flags")->spec().ToJson();
  for (int i = 0; i < 300; ++i) {
    std::string a = hf, b = ours;
    for (int k = 0; k < 3; ++k) {
      a[random() % a.size()] = static_cast<char>(random());
      b[random() % b.size()] = "\"{}[]0,:\\x"[random() % 10];
    }
    if (i % 5 == 0) a.resize(random() % a.size());
    for (auto spec : {ParseHuggingFaceTokenizer({a, "", "", ""}), TokenizerSpec::FromJson(b)}) {
      if (!spec.ok()) continue;
      const auto tokenizer = Tokenizer::Create(*std::move(spec));
      if (tokenizer.ok()) (*tokenizer)->Encode("Hello, <l> w\u00f6rld 12").IgnoreError();
    }
  }
}

TEST(GgufNames, GiveThePatternsOfTheModels) {
  const std::vector<std::pair<std::string, std::string>> names = {
      {"gpt-2", "gpt2"}, {"smollm", "smollm"}, {"llama-bpe", "llama3"}, {"qwen2", "qwen2"}};
  for (const auto& [name, small] : names) {
    const auto recipe = PreTokenizerByGgufName(name);
    ASSERT_TRUE(recipe.ok()) << recipe.status();
    TokenizerSpec spec = testing::SmallTokenizer(small)->spec();
    spec.splits = recipe->splits;
    spec.normalizer = recipe->normalizer;
    spec.ignore_merges = recipe->ignore_merges;
    const auto tokenizer = Tokenizer::Create(spec);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    for (const Json& row : testing::ReadJsonLines("encode.jsonl")) {
      const auto ids = (*tokenizer)->Encode(testing::TextOf(row["text"]));
      ASSERT_TRUE(ids.ok()) << ids.status();
      ASSERT_TRUE(testing::SameIds(*ids, row["ids"][small]))
          << name << ": " << row["text"].dump().substr(0, 100);
    }
  }
  for (const char* name : {"default", "starcoder", "refact", "command-r", "falcon", "tekken",
                           "gpt-4o", "deepseek-v3", "llama4", "glm4"}) {
    const auto recipe = PreTokenizerByGgufName(name);
    ASSERT_TRUE(recipe.ok()) << recipe.status();
    TokenizerSpec spec = testing::SmallTokenizer("gpt2")->spec();
    spec.splits = recipe->splits;
    const auto tokenizer = Tokenizer::Create(spec);
    ASSERT_TRUE(tokenizer.ok()) << name << ": " << tokenizer.status();
    const std::string text = "He said: \"it's 12345 $5\"\n\n 日本 Été";
    EXPECT_EQ(*(*tokenizer)->Decode(*(*tokenizer)->Encode(text), true), text) << name;
  }
  EXPECT_EQ(PreTokenizerByGgufName("kimi-k2").status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_NE(PreTokenizerByGgufName("no-such").status().message().find("no-such"),
            absl::string_view::npos);
}

// Writes just enough GGUF: metadata of strings, string lists, numbers and integer lists.
class GgufText {
 public:
  GgufText& String(const std::string& key, const std::string& value) {
    return Key(key, 8).Raw(value);
  }
  GgufText& Number(const std::string& key, uint32_t value) { return Key(key, 4).Put(value); }
  GgufText& Bool(const std::string& key, bool value) {
    Key(key, 7);
    body_ += static_cast<char>(value);
    return *this;
  }
  GgufText& Strings(const std::string& key, const std::vector<std::string>& values) {
    Key(key, 9).Put(uint32_t{8}).Put(uint64_t{values.size()});
    for (const std::string& value : values) Raw(value);
    return *this;
  }
  GgufText& Ints(const std::string& key, const std::vector<int32_t>& values) {
    Key(key, 9).Put(uint32_t{5}).Put(uint64_t{values.size()});
    for (const int32_t value : values) Put(value);
    return *this;
  }
  absl::StatusOr<TokenizerSpec> Read() const {
    std::string bytes = "GGUF";
    Append(uint32_t{3}, bytes);
    Append(uint64_t{0}, bytes);
    Append(keys_, bytes);
    bytes += body_;
    const auto file = GgufFile::Parse(std::as_bytes(std::span(bytes)), "test.gguf");
    if (!file.ok()) return file.status();
    return ReadGgufTokenizer(**file);
  }

 private:
  template <typename T>
  static void Append(T value, std::string& to) {
    to.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  template <typename T>
  GgufText& Put(T value) {
    Append(value, body_);
    return *this;
  }
  GgufText& Raw(const std::string& text) {
    Put(uint64_t{text.size()});
    body_ += text;
    return *this;
  }
  GgufText& Key(const std::string& key, uint32_t type) {
    ++keys_;
    return Raw(key).Put(type);
  }
  uint64_t keys_ = 0;
  std::string body_;
};

GgufText SmallGguf(const std::string& pre = "llama-bpe") {
  GgufText file;
  file.String("tokenizer.ggml.model", "gpt2").String("tokenizer.ggml.pre", pre);
  file.Strings("tokenizer.ggml.tokens", {"a", "b", "ab", "<|eot_id|>", "<u>", "<|begin|>"});
  return file;
}

TEST(GgufSpec, ReadsVocabularyTypesAndSpecialIds) {
  const auto spec = SmallGguf()
                        .Strings("tokenizer.ggml.merges", {"a b"})
                        .Ints("tokenizer.ggml.token_type", {1, 1, 1, 3, 4, 3})
                        .Number("tokenizer.ggml.bos_token_id", 5)
                        .Number("tokenizer.ggml.eos_token_id", 1)
                        .Number("tokenizer.ggml.padding_token_id", 0xFFFFFFFF)
                        .String("tokenizer.chat_template", "{{ 1 }}")
                        .Read();
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->bos_id, 5);
  EXPECT_TRUE(spec->add_bos);  // as Llama 3 wants it, the file being silent
  EXPECT_TRUE(spec->ignore_merges);
  EXPECT_EQ(spec->pad_id, -1);
  EXPECT_EQ(spec->eos_ids, (std::vector<int32_t>{1, 3}));
  EXPECT_EQ(spec->chat_template, "{{ 1 }}");
  ASSERT_EQ(spec->added_tokens.size(), 3u);
  EXPECT_TRUE(spec->added_tokens[0].special);
  EXPECT_FALSE(spec->added_tokens[1].special);
  const auto tokenizer = Tokenizer::Create(*spec);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ(*(*tokenizer)->Encode("ab<u>a<|eot_id|>"), (std::vector<int32_t>{5, 2, 4, 0, 3}));
}

TEST(GgufSpec, RefusesByNameWhatItCannotRead) {
  EXPECT_EQ(GgufText().Read().status().code(), absl::StatusCode::kNotFound);
  const auto wordpiece = GgufText().String("tokenizer.ggml.model", "bert").Read().status();
  EXPECT_EQ(wordpiece.code(), absl::StatusCode::kUnimplemented);
  EXPECT_NE(wordpiece.message().find("bert"), absl::string_view::npos);
  const auto unknown =
      SmallGguf("martian").Strings("tokenizer.ggml.merges", {"a b"}).Read().status();
  EXPECT_EQ(unknown.code(), absl::StatusCode::kUnimplemented);
  EXPECT_NE(unknown.message().find("martian"), absl::string_view::npos);
  EXPECT_FALSE(SmallGguf().Read().ok());  // no merges
  EXPECT_FALSE(SmallGguf().Strings("tokenizer.ggml.merges", {"ab"}).Read().ok());
  EXPECT_FALSE(SmallGguf().Strings("tokenizer.ggml.merges", {"b a"}).Read().ok());
  EXPECT_FALSE(SmallGguf()
                   .Strings("tokenizer.ggml.merges", {})
                   .Ints("tokenizer.ggml.token_type", {1})
                   .Read()
                   .ok());
  EXPECT_FALSE(SmallGguf()
                   .Strings("tokenizer.ggml.merges", {})
                   .Number("tokenizer.ggml.bos_token_id", 6)
                   .Read()
                   .ok());
  EXPECT_FALSE(SmallGguf()
                   .Strings("tokenizer.ggml.merges", {})
                   .String("tokenizer.ggml.bos_token_id", "5")
                   .Read()
                   .ok());
}

}  // namespace
}  // namespace lift
