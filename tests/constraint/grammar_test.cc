// Grammars, choices, and the compiler that keeps what it made.
#include <gmock/gmock.h>

#include <atomic>
#include <condition_variable>
#include <mutex>

#include "absl/strings/str_cat.h"
#include "server/constraint/constraint_compiler.h"
#include "server/errors.h"
#include "tests/constraint/vocabulary.h"

namespace lift {
namespace {

using testing::HasSubstr;

constexpr const char* kArithmetic = R"x(
# sums of products
root ::= sum
sum ::= product (("+" | "-") product)*
product ::= factor ("*" factor)*
factor ::= [0-9]{1,3} | "(" sum ")"
)x";

// The grammar above by hand: position after the expression, npos if there is none.
size_t Sum(std::string_view text, size_t at);
size_t Factor(std::string_view text, size_t at) {
  if (at < text.size() && text[at] == '(') {
    at = Sum(text, at + 1);
    return at != std::string_view::npos && at < text.size() && text[at] == ')'
               ? at + 1
               : std::string_view::npos;
  }
  size_t digits = 0;
  while (digits < 3 && at + digits < text.size() && text[at + digits] >= '0' &&
         text[at + digits] <= '9')
    ++digits;
  return digits == 0 ? std::string_view::npos : at + digits;
}
size_t Product(std::string_view text, size_t at) {
  at = Factor(text, at);
  for (int i = 0; i < 5 && at != std::string_view::npos && at < text.size() && text[at] == '*';
       ++i) {
    at = Factor(text, at + 1);
  }
  return at;
}
size_t Sum(std::string_view text, size_t at) {
  at = Product(text, at);
  while (at != std::string_view::npos && at < text.size() && (text[at] == '+' || text[at] == '-')) {
    at = Product(text, at + 1);
  }
  return at;
}

TEST(Ebnf, RecursionAgainstAParserByHand) {
  const auto tokenizer = MixedTokenizer();
  const auto constraint = CompileFor(tokenizer, ConstraintSource::Ebnf(kArithmetic));
  ASSERT_TRUE(constraint.ok()) << constraint.status();
  EXPECT_GE((*constraint)->depth(), 8);
  std::mt19937_64 rng(9);
  int complete = 0;
  for (int i = 0; i < 2000; ++i) {
    const auto text = RandomText(**constraint, *tokenizer, rng, 60);
    if (!text) continue;
    ++complete;
    ASSERT_EQ(Sum(*text, 0), text->size()) << *text;
  }
  EXPECT_GT(complete, 500);
  for (int i = 0; i < 5000; ++i) {
    std::string text;
    for (uint64_t n = 1 + rng() % 8; n > 0; --n) text += "0(1)+*-2"[rng() % 8];
    ASSERT_EQ(Accepts(**constraint, *tokenizer, text), Sum(text, 0) == text.size()) << text;
  }
}

// A rule that calls itself last is a loop, not a nest: it has no bound, whatever is between.
TEST(Ebnf, NestingIsBoundedAndEndsEverywhere) {
  const auto tokenizer = MixedTokenizer();
  const auto constraint =
      CompileFor(tokenizer, ConstraintSource::Ebnf("root ::= \"a\" x \"b\" | \"c\"\nx ::= root"));
  ASSERT_TRUE(constraint.ok()) << constraint.status();
  const int depth = (*constraint)->depth();
  EXPECT_GE(depth, 8);
  const auto nested = [](int n) { return std::string(n, 'a') + "c" + std::string(n, 'b'); };
  EXPECT_TRUE(Accepts(**constraint, *tokenizer, nested(depth)));
  EXPECT_FALSE(Accepts(**constraint, *tokenizer, nested(depth + 1)));
  EXPECT_FALSE(Accepts(**constraint, *tokenizer, "aacb"));
  const auto list = CompileFor(tokenizer, ConstraintSource::Ebnf("root ::= \"a\" | \"a,\" root"));
  ASSERT_TRUE(list.ok());
  std::string text = "a";
  for (int i = 0; i < 500; ++i) text += ",a";
  EXPECT_TRUE(Accepts(**list, *tokenizer, text));
  EXPECT_FALSE(Accepts(**list, *tokenizer, text + ","));
}

TEST(Ebnf, RefusesWithTheLine) {
  const std::pair<const char*, const char*> kRefused[] = {
      {"root ::= a", "'a' is not defined"},
      {"a ::= \"x\"", "'root' is not defined"},
      {"root ::= \"x\"\nroot ::= \"y\"", "line 2"},
      {"root ::= \"x", "no end"},
      {"root ::= [a", "']' is missing"},
      {"root ::= (\"a\"", "')' is missing"},
      {"root \"a\"", "'::=' is missing"},
      {"root ::= \"a\"{2", "'}' is missing"},
      {"root ::= \"a\"{20000}", "repetitions"},
      {"root ::= root \"a\" | \"b\"", "left recursion"},
      {"root ::= x* root | \"b\"\nx ::= \"a\"?", "left recursion"},
      {"root ::= \"\\q\"", "escape"},
      {"root ::= %", "begins no literal"},
      {"root ::= \"a\" root", "satisfies"}};
  const auto tokenizer = MixedTokenizer();
  for (const auto& [grammar, message] : kRefused) {
    const auto compiled = CompileFor(tokenizer, ConstraintSource::Ebnf(grammar));
    ASSERT_EQ(compiled.status().code(), absl::StatusCode::kInvalidArgument) << grammar;
    EXPECT_THAT(std::string(compiled.status().message()), HasSubstr(message)) << grammar;
    EXPECT_EQ(ErrorField(compiled.status()), "constraint.grammar");
  }
  std::string deep = "root ::= ";
  for (int i = 0; i < 300; ++i) deep += "(";
  EXPECT_FALSE(ConstraintSource::Ebnf(deep).ok());
}

TEST(Choices, OneOfThemExactly) {
  const auto tokenizer = MixedTokenizer();
  const std::vector<std::string> texts = {"ab", "abc", "é", "日本", "no\nway"};
  const auto constraint = CompileFor(tokenizer, ConstraintSource::Choices(texts));
  ASSERT_TRUE(constraint.ok());
  std::mt19937_64 rng(4);
  std::set<std::string> seen;
  for (int i = 0; i < 400; ++i) seen.insert(RandomText(**constraint, *tokenizer, rng, 50).value());
  EXPECT_EQ(seen, std::set<std::string>(texts.begin(), texts.end()));
  EXPECT_FALSE(ConstraintSource::Choices({}).ok());
  EXPECT_FALSE(ConstraintSource::Choices({"a", ""}).ok());
  EXPECT_FALSE(ConstraintSource::Choices(std::vector<std::string>(2000, "a")).ok());
  // Texts that run into each other are other choices.
  EXPECT_NE((*ConstraintSource::Choices({"a\n1:b"}))->key(),
            (*ConstraintSource::Choices({"a", "b"}))->key());
}

// Waits for a number of results.
class Results {
 public:
  ConstraintCompiler::Done Collect() {
    return [this](const ConstraintCompiler::Result& result) {
      const std::lock_guard lock(mutex_);
      results_.push_back(result);
      ready_.notify_all();
    };
  }
  std::vector<ConstraintCompiler::Result> Wait(size_t count) {
    std::unique_lock lock(mutex_);
    ready_.wait(lock, [&] { return results_.size() >= count; });
    return results_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable ready_;
  std::vector<ConstraintCompiler::Result> results_;
};

std::shared_ptr<const ConstraintSource> RegexSource(const std::string& pattern) {
  return ConstraintSource::Regex(pattern).value();
}

TEST(Compiler, CompilesOnceAndEvictsTheLeastRecent) {
  Results results;
  ConstraintCompiler compiler(MixedTokenizer(), {.cache_bytes = 100000, .max_waiting = 64});
  for (int i = 0; i < 5; ++i)
    ASSERT_TRUE(compiler.Compile(RegexSource("a+b"), "t", results.Collect()).ok());
  const auto same = results.Wait(5);
  for (const auto& result : same) EXPECT_EQ(*result, *same[0]);
  EXPECT_EQ(compiler.stats().compiled, 1);
  EXPECT_EQ(compiler.stats().reused, 4);
  size_t count = 5;
  for (int i = 0; i < 200; ++i) {
    ASSERT_TRUE(
        compiler.Compile(RegexSource(absl::StrCat("[a-z]{", i, "}")), "t", results.Collect()).ok());
    results.Wait(++count);
  }
  EXPECT_LE(compiler.stats().bytes, 100000u);
  EXPECT_GT(compiler.stats().entries, 0u);
  EXPECT_LT(compiler.stats().entries, 200u);
  // What failed is known, too.
  ASSERT_TRUE(compiler.Compile(RegexSource("(a|b)*a(a|b){25}"), "t", results.Collect()).ok());
  EXPECT_EQ(ErrorReason(results.Wait(++count).back().status()), "CONSTRAINT_TOO_LARGE");
  const int64_t before = compiler.stats().compiled;
  ASSERT_TRUE(compiler.Compile(RegexSource("(a|b)*a(a|b){25}"), "t", results.Collect()).ok());
  EXPECT_FALSE(results.Wait(++count).back().ok());
  EXPECT_EQ(compiler.stats().compiled, before);
}

// Hostile constraints of one tenant hold up another's by one of them at most.
TEST(Compiler, TenantsTakeTurnsAndTheQueueIsBounded) {
  std::vector<std::string> order;
  std::mutex mutex;
  std::condition_variable ready;
  size_t refused = 0;
  ConstraintCompiler compiler(MixedTokenizer(), {.cache_bytes = 1 << 20, .max_waiting = 20});
  const auto note = [&](std::string name) {
    return [&, name](const ConstraintCompiler::Result&) {
      const std::lock_guard lock(mutex);
      order.push_back(name);
      ready.notify_all();
    };
  };
  for (int i = 0; i < 30; ++i) {
    const auto source = RegexSource(absl::StrCat("(a|b)*a(a|b){", 30 + i, "}"));
    if (!compiler.Compile(source, "hostile", note("hostile")).ok()) ++refused;
  }
  EXPECT_GT(refused, 0u);
  while (!compiler.Compile(RegexSource("a+"), "other", note("other")).ok()) {
    std::unique_lock lock(mutex);
    ready.wait_for(lock, std::chrono::milliseconds(1));
  }
  std::unique_lock lock(mutex);
  ready.wait(lock, [&] { return std::find(order.begin(), order.end(), "other") != order.end(); });
  const auto before = std::find(order.begin(), order.end(), "other") - order.begin();
  EXPECT_LT(before, 10);
}

}  // namespace
}  // namespace lift
