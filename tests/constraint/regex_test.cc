// Regular expressions against PCRE2, and what is refused.
#define PCRE2_CODE_UNIT_WIDTH 8
#include <gmock/gmock.h>
#include <pcre2.h>

#include "absl/strings/str_cat.h"
#include "server/errors.h"
#include "tests/constraint/vocabulary.h"

namespace lift {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// PCRE2's opinion of a full match.
class Pcre {
 public:
  explicit Pcre(const std::string& pattern) {
    const std::string whole = absl::StrCat("^(?:", pattern, ")\\z");
    int error = 0;
    PCRE2_SIZE offset = 0;
    code_ = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(whole.data()), whole.size(), PCRE2_UTF,
                          &error, &offset, nullptr);
    LIFT_CHECK(code_ != nullptr);
    data_ = pcre2_match_data_create_from_pattern(code_, nullptr);
    context_ = pcre2_match_context_create(nullptr);
    pcre2_set_match_limit(context_, 20000);  // else it may backtrack for a second
  }
  ~Pcre() {
    pcre2_match_context_free(context_);
    pcre2_match_data_free(data_);
    pcre2_code_free(code_);
  }
  Pcre(const Pcre&) = delete;
  Pcre& operator=(const Pcre&) = delete;
  // Nothing where it gave up backtracking.
  std::optional<bool> Matches(const std::string& text) const {
    const int found = pcre2_match(code_, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), 0,
                                  0, data_, context_);
    if (found < 0 && found != PCRE2_ERROR_NOMATCH) return std::nullopt;
    return found > 0;
  }

 private:
  pcre2_code* code_;
  pcre2_match_data* data_;
  pcre2_match_context* context_;
};

// A random pattern of the supported syntax over few letters, so that texts collide with it often.
class PatternMaker {
 public:
  explicit PatternMaker(std::mt19937_64& rng) : rng_(rng) {}
  std::string Make(int depth) {
    std::string pattern = Sequence(depth);
    while (Below(4) == 0) pattern += "|" + Sequence(depth);
    return pattern;
  }

 private:
  uint64_t Below(uint64_t n) { return rng_() % n; }
  std::string Sequence(int depth) {
    std::string out;
    for (uint64_t n = Below(4); n > 0; --n) out += Atom(depth) + Quantifier();
    return out;
  }
  std::string Atom(int depth) {
    static const char* const kAtoms[] = {
        "a",  "b",     "c",      ".",   "\\d",    "\\w", "[ab]", "[^ab]", "é",    "\\s", "[a-c€]",
        "日", "\\x41", "[^\\w]", "\\n", "[\\d-]", "\\S", "\\.",  "[é-ü]", "\\\\", "\\D"};
    if (depth > 0 && Below(3) == 0) {
      return (Below(2) == 0 ? "(" : "(?:") + Make(depth - 1) + ")";
    }
    return kAtoms[Below(std::size(kAtoms))];
  }
  std::string Quantifier() {
    static const char* const kAll[] = {"",    "",      "",       "*",    "+", "?",
                                       "{2}", "{1,3}", "{0,2}?", "{2,}", "*?"};
    return kAll[Below(std::size(kAll))];
  }
  std::mt19937_64& rng_;
};

std::string RandomString(std::mt19937_64& rng) {
  static const char* const kPieces[] = {"a",  "b", "c", "ab", "A", "1", "-", " ",
                                        "\n", "é", "€", "日", "😀", ".", "\\"};
  std::string out;
  for (uint64_t n = rng() % 7; n > 0; --n) out += kPieces[rng() % std::size(kPieces)];
  return out;
}

TEST(Regex, AcceptsWhatPcreAccepts) {
  const auto tokenizer = MixedTokenizer();
  std::mt19937_64 rng(20);
  int compiled = 0, generated = 0, accepted = 0, rejected = 0;
  for (int trial = 0; trial < 400; ++trial) {
    const std::string pattern = PatternMaker(rng).Make(2);
    SCOPED_TRACE(pattern);
    const auto constraint = CompileFor(tokenizer, ConstraintSource::Regex(pattern));
    if (!constraint.ok()) {
      ASSERT_THAT(ErrorReason(constraint.status()),
                  testing::AnyOf("CONSTRAINT_UNSATISFIABLE", "CONSTRAINT_TOO_LARGE"));
      continue;
    }
    ++compiled;
    const Pcre pcre(pattern);
    for (int i = 0; i < 20; ++i) {
      const auto text = RandomText(**constraint, *tokenizer, rng, 200);
      if (!text) continue;
      ++generated;
      ASSERT_EQ(FindInvalidUtf8(*text), std::string_view::npos);
      ASSERT_TRUE(pcre.Matches(*text).value_or(true)) << *text;
      // And texts that differ from a match in one place, or are anything.
      for (const std::string& other :
           {RandomString(rng), *text + "a", text->substr(0, text->size() / 2)}) {
        if (FindInvalidUtf8(other) != std::string_view::npos) continue;
        const std::optional<bool> matches = pcre.Matches(other);
        if (!matches) continue;
        ++(*matches ? accepted : rejected);
        ASSERT_EQ(Accepts(**constraint, *tokenizer, other), *matches) << other;
      }
    }
  }
  EXPECT_GT(compiled, 350);
  EXPECT_GT(generated, 4000);
  EXPECT_GT(accepted, 1000);
  EXPECT_GT(rejected, 1000);
}

TEST(Regex, TokensMayCutCharactersAnywhere) {
  const auto tokenizer = TokenizerOf({"\xE2\x82", "\xAC", "x\xC3", "\xA9", "x", "\xE2"});
  const auto constraint = CompileFor(tokenizer, ConstraintSource::Regex("(€|xé)x?"));
  ASSERT_TRUE(constraint.ok());
  // "\xE2" alone could only go on with a token "\x82", which is not there.
  EXPECT_THAT(AllowedTokens(**constraint, (*constraint)->start()), ElementsAre(1, 3));
  int32_t state = (*constraint)->Advance((*constraint)->start(), 3);
  EXPECT_THAT(AllowedTokens(**constraint, state), ElementsAre(4));
  EXPECT_FALSE((*constraint)->Accepts(state));
  state = (*constraint)->Advance(state, 4);
  EXPECT_TRUE((*constraint)->Accepts(state));
  EXPECT_FALSE((*constraint)->Complete(state));
  EXPECT_EQ((*constraint)->Advance(state, 1), CompiledConstraint::kDead);
  state = (*constraint)->Advance(state, 5);
  EXPECT_TRUE((*constraint)->Accepts(state));
  EXPECT_TRUE((*constraint)->Complete(state));
}

TEST(Regex, NoDeadEndsWhereTheVocabularyLacksBytes) {
  // "b" cannot be followed by "c": only "bd" can.
  const auto tokenizer = TokenizerOf({"a", "b", "bd", "ac"});
  const auto constraint = CompileFor(tokenizer, ConstraintSource::Regex("a(bc|bd)|acc"));
  ASSERT_TRUE(constraint.ok());
  EXPECT_THAT(AllowedTokens(**constraint, (*constraint)->start()), ElementsAre(1));
  const int32_t state = (*constraint)->Advance((*constraint)->start(), 1);
  EXPECT_THAT(AllowedTokens(**constraint, state), ElementsAre(3));
  const auto never = CompileFor(tokenizer, ConstraintSource::Regex("abc"));
  EXPECT_EQ(ErrorReason(never.status()), "CONSTRAINT_UNSATISFIABLE");
  EXPECT_EQ(ErrorField(never.status()), "constraint.regex");
}

TEST(Regex, RefusesByNameWhatItDoesNotSupport) {
  const std::pair<const char*, const char*> kRefused[] = {{"(a)\\1", "back reference"},
                                                          {"(?=a)b", "lookahead"},
                                                          {"(?<!a)b", "lookbehind"},
                                                          {"(?i)a", "flags"},
                                                          {"a++", "possessive"},
                                                          {"(?>a)", "atomic"},
                                                          {"\\bword", "\\b"},
                                                          {"\\p{L}", "\\p"},
                                                          {"[[:alpha:]]", "POSIX"},
                                                          {"a**", "quantifier"},
                                                          {"*a", "nothing to repeat"},
                                                          {"(a", "')' is missing"},
                                                          {"a)", "closes no group"},
                                                          {"[a", "']' is missing"},
                                                          {"[z-a]", "out of order"},
                                                          {"a{3,2}", "out of order"},
                                                          {"a{x}", "repetition"},
                                                          {"a{99999}", "repetitions"},
                                                          {"a^b", "ends of the pattern"},
                                                          {"\\", "backslash"},
                                                          {"\\u{110000}", "code point"},
                                                          {"[\\d-z]", "single"},
                                                          {"\\01", "octal"},
                                                          {"a\xFF", "UTF-8"}};
  for (const auto& [pattern, message] : kRefused) {
    const auto source = ConstraintSource::Regex(pattern);
    ASSERT_EQ(source.status().code(), absl::StatusCode::kInvalidArgument) << pattern;
    EXPECT_THAT(std::string(source.status().message()), HasSubstr(message)) << pattern;
    EXPECT_THAT(std::string(source.status().message()), HasSubstr("at byte"));
    EXPECT_EQ(ErrorField(source.status()), "constraint.regex");
  }
  EXPECT_FALSE(ConstraintSource::Regex(std::string(200, '(') + std::string(200, ')')).ok());
  EXPECT_EQ(ErrorReason(ConstraintSource::Regex(std::string(100000, 'a')).status()),
            "CONSTRAINT_TOO_LARGE");
}

TEST(Regex, AnchorsAtTheEndsMeanNothing) {
  const auto tokenizer = MixedTokenizer();
  const auto constraint = CompileFor(tokenizer, ConstraintSource::Regex("^ab$|^c"));
  ASSERT_TRUE(constraint.ok());
  EXPECT_TRUE(Accepts(**constraint, *tokenizer, "ab"));
  EXPECT_TRUE(Accepts(**constraint, *tokenizer, "c"));
  EXPECT_FALSE(Accepts(**constraint, *tokenizer, "cab"));
}

// Small patterns whose automata are huge.
TEST(Regex, HostilePatternsAreRefusedSoon) {
  const auto tokenizer = MixedTokenizer();
  for (const char* pattern : {"(a|b)*a(a|b){25}", "((((a{1000}){1000}){1000}){1000}){1000}",
                              "(((a{0}){9999}){9999}){9999}", "(.{1,200}){1,200}x",
                              "([^a]{1,900}b){1,900}", "((a?){100}){100}((b|a){90}c){90}",
                              "(\\w{1,90}\\s?){1,90}", "(a*)*(b*)*((a|b)*c){2000}.*a.{30}"}) {
    const auto constraint = CompileFor(tokenizer, ConstraintSource::Regex(pattern));
    if (constraint.ok()) {
      EXPECT_LT((*constraint)->bytes(), size_t{64} << 20) << pattern;
    } else {
      EXPECT_EQ(ErrorReason(constraint.status()), "CONSTRAINT_TOO_LARGE") << pattern;
    }
  }
}

// Each state of its automaton stands for thousands of places in the pattern: few states, much
// memory.
TEST(Regex, AutomataOfWideStatesAreRefused) {
  const auto tokenizer = MixedTokenizer();
  const auto wide = CompileFor(tokenizer, ConstraintSource::Regex("(|a|in){2000}"));
  EXPECT_EQ(ErrorReason(wide.status()), "CONSTRAINT_TOO_LARGE");
  EXPECT_TRUE(CompileFor(tokenizer, ConstraintSource::Regex("(|a|in){400}")).ok());
}

}  // namespace
}  // namespace lift
