#include "server/tokenizer/pretokenizer_patterns.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace lift {

const char kGpt2Pattern[] =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

namespace {

// As each model's tokenizer.json writes them.
constexpr char kDigit[] = R"(\p{N})";
constexpr char kDigits3[] = R"(\p{N}{1,3})";
constexpr char kLlama3[] =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr char kQwen2[] =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr char kTekken[] =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr char kGpt4o[] =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr char kFalconPunctuation[] = R"([\p{P}\$\+<=>\^~\|`]+)";
constexpr char kDeepSeekCjk[] = R"([一-龥぀-ゟ゠-ヿ]+)";
constexpr char kDeepSeek3[] =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr char kDigitTriples[] = "[0-9][0-9][0-9]";

struct Row {
  std::vector<const char*> names;
  std::vector<const char*> patterns;  // applied in order, all isolated
  bool ignore_merges = false, add_bos = false;
  const char* normalizer = "";
};

const std::vector<Row>& Table() {
  static const std::vector<Row> rows = {
      {{"llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "dbrx", "smaug-bpe"},
       {kLlama3},
       true,
       true},
      {{"glm4", "chatglm-bpe"}, {kLlama3}},
      {{"qwen2", "deepseek-r1-qwen", "megrez"}, {kQwen2}, false, false, "nfc"},
      {{"stablelm2", "hunyuan"}, {kQwen2}},
      {{"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"},
       {kDigit, kGpt2Pattern}},
      {{"gpt-2", "gpt2", "phi-2", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de", "jina-v2-code",
        "mpt", "olmo", "jais", "trillion", "roberta-bpe", "exaone4", "a.x-4.0", "mellum",
        "gigachat", "granite-docling"},
       {kGpt2Pattern}},
      {{"tekken"}, {kTekken}, true, true},
      {{"gpt-4o", "llama4"}, {kGpt4o}},
      {{"deepseek-v3"}, {kDigits3, kDeepSeekCjk, kDeepSeek3}},
      {{"falcon"}, {kFalconPunctuation, kGpt2Pattern, kDigitTriples}},
      {{"default"}, {kFalconPunctuation, kGpt2Pattern, "\\p{N}+", kDigitTriples}},
  };
  return rows;
}

}  // namespace

absl::StatusOr<PreTokenizerRecipe> PreTokenizerByGgufName(std::string_view name) {
  for (const Row& row : Table()) {
    if (std::find(row.names.begin(), row.names.end(), name) == row.names.end()) continue;
    PreTokenizerRecipe recipe;
    for (const char* pattern : row.patterns) recipe.splits.push_back({pattern, "isolated", false});
    recipe.ignore_merges = row.ignore_merges;
    recipe.add_bos = row.add_bos;
    recipe.normalizer = row.normalizer;
    return recipe;
  }
  return absl::UnimplementedError(
      absl::StrCat("GGUF pre-tokenizer (tokenizer.ggml.pre) \"", std::string(name),
                   "\" is not supported; use the model's Hugging Face folder instead"));
}

}  // namespace lift
