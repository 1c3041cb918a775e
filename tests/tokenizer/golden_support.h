// Reading tests/golden/tokenizer.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "server/tokenizer/huggingface_spec.h"
#include "server/tokenizer/tokenizer.h"

namespace lift::testing {

using Json = nlohmann::json;

inline std::string GoldenPath(const std::string& name) {
  return std::string(LIFT_TEST_DATA) + "/tokenizer/" + name;
}

inline std::string ReadText(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.good()) << path;
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

inline std::vector<Json> ReadJsonLines(const std::string& name) {
  std::vector<Json> rows;
  std::istringstream lines(ReadText(GoldenPath(name)));
  for (std::string line; std::getline(lines, line);) rows.push_back(Json::parse(line));
  return rows;
}

// A text, or {"repeat": [[part, count], ...]}.
inline std::string TextOf(const Json& entry) {
  if (entry.is_string()) return entry.get<std::string>();
  std::string text;
  for (const Json& part : entry["repeat"]) {
    for (int i = 0; i < part[1].get<int>(); ++i) text += part[0].get<std::string>();
  }
  return text;
}

inline uint64_t IdsHash(const std::vector<int32_t>& ids) {
  uint64_t hash = 0xCBF29CE484222325u;
  for (const int32_t id : ids) {
    for (int shift = 0; shift < 32; shift += 8)
      hash = (hash ^ ((static_cast<uint32_t>(id) >> shift) & 255)) * 0x100000001B3u;
  }
  return hash;
}

// `expected` is a list of ids, or {"n": count, "fnv": hash}.
inline bool SameIds(const std::vector<int32_t>& ids, const Json& expected) {
  if (expected.is_array()) return Json(ids) == expected;
  return ids.size() == expected["n"].get<size_t>() &&
         IdsHash(ids) == std::stoull(expected["fnv"].get<std::string>(), nullptr, 16);
}

inline std::shared_ptr<const Tokenizer> SmallTokenizer(const std::string& name) {
  HuggingFaceTokenizerFiles files;
  files.tokenizer = ReadText(GoldenPath(name + ".json"));
  auto spec = ParseHuggingFaceTokenizer(files);
  EXPECT_TRUE(spec.ok()) << name << ": " << spec.status();
  if (!spec.ok()) return nullptr;
  auto tokenizer = Tokenizer::Create(*std::move(spec));
  EXPECT_TRUE(tokenizer.ok()) << name << ": " << tokenizer.status();
  return tokenizer.ok() ? *tokenizer : nullptr;
}

inline const std::vector<std::string>& SmallTokenizerNames() {
  static const std::vector<std::string> names = {"gpt2",  "smollm", "llama3", "qwen2",
                                                 "flags", "mixed",  "unk"};
  return names;
}

}  // namespace lift::testing
