// Rendered texts equal to those of transformers' Jinja environment (goldens:
// tests/golden/chat_goldens.py), and limits.
#include "server/tokenizer/chat_template.h"

#include <chrono>

#include "server/model/checkpoint/gguf.h"
#include "server/tokenizer/gguf_spec.h"
#include "tests/tokenizer/golden_support.h"

namespace lift {
namespace {

using testing::Json;

const ChatTemplate::Options kOptions{.add_generation_prompt = true,
                                     .bos_token = "<s>",
                                     .eos_token = "</s>",
                                     .unix_time = 1721952000};

absl::StatusOr<std::string> RenderRow(const std::string& source, const Json& row) {
  auto compiled = ChatTemplate::Compile(source);
  if (!compiled.ok()) return compiled.status();
  std::vector<ChatMessage> messages;
  for (const Json& message : row["messages"])
    messages.push_back({message["role"], message["content"]});
  ChatTemplate::Options options = kOptions;
  options.add_generation_prompt = row["add_generation_prompt"];
  return (*compiled)->Render(messages, options);
}

TEST(ChatTemplateGolden, RendersAsTransformersDoes) {
  int compared = 0;
  for (const Json& row : testing::ReadJsonLines("chat.jsonl")) {
    const bool file = row.contains("file");
    const std::string name = row[file ? "file" : "template"];
    const auto text = RenderRow(file ? testing::ReadText(testing::GoldenPath(name)) : name, row);
    ++compared;
    if (row.contains("error")) {
      ASSERT_FALSE(text.ok()) << name << " gives " << *text << "\n  not the error " << row["error"];
      EXPECT_NE(text.status().code(), absl::StatusCode::kResourceExhausted) << text.status();
      continue;
    }
    ASSERT_TRUE(text.ok()) << name << ": " << text.status();
    EXPECT_EQ(*text, row["output"].get<std::string>()) << name;
  }
  EXPECT_GE(compared, 300);
}

TEST(ChatTemplateGolden, RunsTheModelsOwnTemplate) {
  const char* path = std::getenv("LIFT_TEST_MODEL");
  if (path == nullptr)
    GTEST_SKIP() << "LIFT_TEST_MODEL (path of SmolLM2-135M-Instruct.Q4_1.gguf) is not set";
  const auto file = GgufFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  const auto spec = ReadGgufTokenizer(**file);
  ASSERT_TRUE(spec.ok()) << spec.status();
  int compared = 0;
  for (const Json& row : testing::ReadJsonLines("chat.jsonl")) {
    if (!row.contains("file") || row["file"] != "templates/smollm2.jinja") continue;
    const auto text = RenderRow(spec->chat_template, row);
    ASSERT_TRUE(text.ok()) << text.status();
    EXPECT_EQ(*text, row["output"].get<std::string>());
    ++compared;
  }
  EXPECT_GT(compared, 10);
}

TEST(ChatTemplate, PassesOnWhatTheTemplateRaises) {
  const auto compiled = ChatTemplate::Compile("a\n{{ raise_exception('Roles must alternate') }}");
  ASSERT_TRUE(compiled.ok()) << compiled.status();
  const auto text = (*compiled)->Render({}, kOptions);
  EXPECT_EQ(text.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(text.status().message().find("Roles must alternate"), absl::string_view::npos);
  EXPECT_NE(text.status().message().find("line 2"), absl::string_view::npos);
}

TEST(ChatTemplate, RefusesWhatIsOutsideTheSubsetByNameAndLine) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"{{ x | groupby('a') }}", "filter \"groupby\""},
      {"{% include 'x' %}", "tag \"include\""},
      {"{% block a %}{% endblock %}", "tag \"block\""},
      {"{{ x is prime }}", "test \"prime\""},
      {"{{ 'a'.encode() }}", ".encode()"},
      {"{{ lipsum() }}", "lipsum()"},
      {"{{ 1.5 }}", "floating-point"},
      {"{% for a in b recursive %}{% endfor %}", "recursive"},
      {"{{ 2 ** 3 }}", "**"},
      {"{{ f(*a) }}", "argument unpacking"},
      {"{{ messages.__class__.mro() }}", ".mro()"},
      {"{% raw %}{% endraw %}", "tag \"raw\""},
      {"{% set a, b = 1, 2 %}", "several names"},
      {"{% if 1 %}{% macro m() %}{% endmacro %}{% endif %}", "macro"},
  };
  for (const auto& [source, what] : cases) {
    const auto compiled = ChatTemplate::Compile("first line\n\n" + source);
    ASSERT_FALSE(compiled.ok()) << source;
    EXPECT_EQ(compiled.status().code(), absl::StatusCode::kUnimplemented) << compiled.status();
    EXPECT_NE(compiled.status().message().find(what), absl::string_view::npos) << compiled.status();
    EXPECT_NE(compiled.status().message().find("line 3"), absl::string_view::npos)
        << compiled.status();
  }
}

TEST(ChatTemplate, RefusesMalformedTemplates) {
  for (const char* source : {"{{",
                             "{%",
                             "{#",
                             "{{ }}",
                             "{{ 1 + }}",
                             "{% if %}",
                             "{% if 1 %}",
                             "{% endif %}",
                             "{% for x %}{% endfor %}",
                             "{{ 'a }}",
                             "{{ (1 }}",
                             "{{ a[ }}",
                             "{{ a.1 }}",
                             "{% else %}",
                             "{% for x in y %}{% endif %}",
                             "{{ a b }}",
                             "{% set %}",
                             "{{ 1 ? 2 }}",
                             "{% break %}",
                             "{{ ) }}",
                             "{{ 99999999999999999999 }}",
                             "{{ '\\ud800' }}",
                             "{{ '\\xg' }}",
                             "{{ a | }}",
                             "{{ a is }}",
                             "{% macro %}",
                             "{{ a[1:2:3:4] }}",
                             "{{ f(a=1, 2) }}",
                             "{% if 1 %}{% else %}{% elif 2 %}{% endif %}",
                             "\xff"}) {
    const auto compiled = ChatTemplate::Compile(source);
    EXPECT_EQ(compiled.status().code(), absl::StatusCode::kInvalidArgument)
        << source << ": " << compiled.status();
  }
}

std::string Times(const std::string& part, int count) {
  std::string out;
  for (int i = 0; i < count; ++i) out += part;
  return out;
}

TEST(ChatTemplate, CapsNestingAtCompileTime) {
  const std::vector<std::string> sources = {
      "{{ " + Times("(", 5000) + "1" + Times(")", 5000) + " }}",
      "{{ " + Times("[", 5000) + Times("]", 5000) + " }}",
      "{{ " + Times("not ", 5000) + "1 }}",
      "{{ " + Times("-", 5000) + "1 }}",
      "{{ a" + Times(".b", 5000) + " }}",
      "{{ 1" + Times(" + 1", 5000) + " }}",
      "{{ a" + Times(" | trim", 5000) + " }}",
      "{{ a" + Times("[0]", 5000) + " }}",
      Times("{% if 1 %}", 5000) + Times("{% endif %}", 5000),
      Times("{% for a in b %}", 5000) + Times("{% endfor %}", 5000),
      "{{ " + Times("1 if 1 else ", 5000) + "1 }}",
      "{{ a" + Times(" or a", 5000) + " }}"};
  for (const std::string& source : sources) {
    EXPECT_EQ(ChatTemplate::Compile(source).status().code(), absl::StatusCode::kUnimplemented)
        << source.substr(0, 40);
  }
}

TEST(ChatTemplate, CapsWorkOutputAndRecursionWhenRendering) {
  const std::vector<std::string> sources = {
      "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
      "{% for a in range(100000) %}{% for b in range(100000) %}xxxxxxxxxxxxxxxxxxxxxxxxxxxxx{% "
      "endfor %}{% endfor %}",
      "{% set ns = namespace(x='ab') %}{% for a in range(100) %}{% set ns.x = ns.x + ns.x %}{% "
      "endfor %}",
      "{% set ns = namespace(x=['a']) %}{% for a in range(100) %}{% set ns.x = ns.x + ns.x %}{% "
      "endfor %}",
      "{% set ns = namespace(x=[]) %}{% for a in range(100000) %}{% set ns.x = [ns.x] %}{% endfor "
      "%}{{ ns.x }}",
      "{% set ns = namespace(x=[1]) %}{% for a in range(30) %}{% set ns.x = [ns.x, ns.x] %}{% "
      "endfor %}{{ ns.x == ns.x }}{{ ns.x }}",
      "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
      "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
      "{{ 'a' * 999999999999 }}",
      "{{ ('a' * 1000000) | replace('a', 'b' * 1000000) }}",
      "{{ ('a' * 1000000).replace('', 'b' * 1000000) }}",
      "{{ range(999999999999) }}",
      "{% for a in range(100000) %}{{ ('x' * 1000000) | upper }}{% endfor %}",
      "{% set l = ['x' * 1000000] %}{% for a in range(100000) %}{{ l | join('y') | length }}{% "
      "endfor %}",
      "{{ range(100000) | map('string') | join('z' * 100000) }}",
  };
  for (const std::string& source : sources) {
    const auto compiled = ChatTemplate::Compile(source);
    ASSERT_TRUE(compiled.ok()) << source << ": " << compiled.status();
    const auto start = std::chrono::steady_clock::now();
    const auto text = (*compiled)->Render({{"user", "x"}}, kOptions);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    EXPECT_EQ(text.status().code(), absl::StatusCode::kResourceExhausted)
        << source << ": " << text.status();
    EXPECT_LT(seconds.count(), 60) << source;
  }
}

TEST(ChatTemplate, RendersLongConversationsQuickly) {
  const auto compiled =
      ChatTemplate::Compile(testing::ReadText(testing::GoldenPath("templates/llama3_1.jinja")));
  ASSERT_TRUE(compiled.ok()) << compiled.status();
  std::vector<ChatMessage> messages(2000, {"user", std::string(2000, 'x')});
  const auto text = (*compiled)->Render(messages, kOptions);
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_GT(text->size(), 4'000'000u);
}

TEST(ChatTemplate, ShowsTheCurrentDateByDefault) {
  const auto compiled = ChatTemplate::Compile("{{ strftime_now('%Y') }}");
  ASSERT_TRUE(compiled.ok());
  const auto text = (*compiled)->Render({}, {});
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_GE(std::stoi(*text), 2024);
}

}  // namespace
}  // namespace lift
