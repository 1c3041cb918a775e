#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "server/config/server_config.h"

namespace lift {
namespace {

absl::StatusOr<CommandLine> Parse(std::vector<const char*> args) {
  args.insert(args.begin(), "lift-server");
  return ParseCommandLine(static_cast<int>(args.size()), args.data(), "version text");
}

std::string WriteFile(const std::string& name, const std::string& text) {
  const std::string path = testing::TempDir() + name;
  std::ofstream(path) << text;
  return path;
}

TEST(ServerConfig, FlagsWinOverTheFileAndTheFileOverDefaults) {
  const std::string path = WriteFile(
      "config.json",
      R"({"model": "a.lift", "max_batch": 7, "max_queue": 9, "speculate": 3, "variants": ["x", "y"]})");
  const auto parsed = Parse({"--config", path.c_str(), "--max-batch", "5"});
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->config.model, "a.lift");
  EXPECT_EQ(parsed->config.max_batch, 5);
  EXPECT_EQ(parsed->config.max_queue, 9);
  EXPECT_EQ(parsed->config.speculate, 3);
  EXPECT_THAT(parsed->config.variants, testing::ElementsAre("x", "y"));
  EXPECT_EQ(parsed->config.drain_seconds, 30);
  EXPECT_EQ(parsed->config.cpu_tuning, "auto");
}

TEST(ServerConfig, ContractFlags) {
  const auto parsed =
      Parse({"--model", "m", "--listen", "0.0.0.0:0", "--admin", "0.0.0.0:1", "--variants", "a,b"});
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->config.listen, "0.0.0.0:0");
  EXPECT_EQ(parsed->config.admin, "0.0.0.0:1");
  EXPECT_THAT(parsed->config.variants, testing::ElementsAre("a", "b"));
  EXPECT_EQ(Parse({"--model", "m", "--cpu-tuning", "t.json"})->config.cpu_tuning, "t.json");
}

TEST(ServerConfig, WrongInputIsNamed) {
  const std::vector<std::pair<std::vector<const char*>, std::string>> cases{
      {{}, "--model"},
      {{"--nonesuch"}, "nonesuch"},
      {{"--model", "m", "--threads", "many"}, "--threads"},
      {{"--model", "m", "--threads", "-1"}, "--threads"},
      {{"--model", "m", "--listen", "8080"}, "--listen"},
      {{"--model", "m", "--max-batch", "0"}, "--max-batch"},
      {{"--model", "m", "--speculate", "17"}, "--speculate"},
      {{"--model", "m", "--device", "tpu"}, "--device"},
      {{"--model", "m", "--kv-tokens", "5", "--kv-memory-mb", "5"}, "exclude"},
      {{"--model", "m", "--verify", "never"}, "start, background"},
      {{"--model", "m", "--kv-cache", "fp8"}, "f32, f16, bf16, int8"},
      {{"--model", "m", "--drain-seconds", "nan"}, "--drain-seconds"},
      {{"--model", "m", "--cpu-tuning="}, "--cpu-tuning"},
      {{"--model", "m", "--cut-mb", "40,-1"}, "--cut-mb"},
      {{"--config", "/nonexistent.json"}, "cannot be read"},
  };
  for (const auto& [args, expected] : cases) {
    const auto parsed = Parse(args);
    ASSERT_FALSE(parsed.ok()) << expected;
    EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(parsed.status().message()), testing::HasSubstr(expected));
  }
}

TEST(ServerConfig, WrongFilesAreNamed) {
  const std::vector<std::pair<std::string, std::string>> cases{
      {"[]", "not a JSON object"},
      {"{", "not a JSON object"},
      {R"({"modle": "x"})", "modle"},
      {R"({"max_batch": "x"})", "max_batch"},
      {R"({"max_batch": 1.5})", "max_batch"},
      {R"({"status_page": 1})", "status_page"},
      {R"({"variants": "x"})", "variants"},
  };
  for (const auto& [text, expected] : cases) {
    const std::string path = WriteFile("wrong.json", text);
    const auto parsed = Parse({"--config", path.c_str(), "--model", "m"});
    ASSERT_FALSE(parsed.ok()) << text;
    EXPECT_THAT(std::string(parsed.status().message()), testing::HasSubstr(expected));
  }
}

TEST(ServerConfig, HelpAndVersionArePrinted) {
  EXPECT_EQ(Parse({"--version"})->text, "version text\n");
  const auto help = Parse({"--help"});
  EXPECT_EQ(help->action, CommandLine::Action::kPrint);
  EXPECT_THAT(help->text, testing::HasSubstr("--kv-memory-mb"));
}

}  // namespace
}  // namespace lift
