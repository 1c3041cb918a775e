// JSON schemas: what their texts look like and what is refused. Validators judge whole answers in
// tests/integration/constraint_test.py.
#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "server/errors.h"
#include "tests/constraint/vocabulary.h"

namespace lift {
namespace {

using testing::HasSubstr;

struct Case {
  const char* schema;
  std::vector<const char*> accepted, rejected;
};

TEST(JsonSchema, AcceptsInstancesOnly) {
  const auto tokenizer = MixedTokenizer();
  const Case cases[] = {
      {R"({"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"string"}},"required":["a"]})",
       {R"({"a":1})", R"({"a": -12, "b": "é\n"})", R"({"a":0,"b":""})"},
       {R"({})", R"({"b":"x"})", R"({"b":"x","a":1})", R"({"a":1,})", R"({"a":01})", R"({"a":1.5})",
        R"({"a":1,"c":1})", R"({"a" :1})"}},
      {R"({"properties":{"a":{"const":1},"b":{"const":2},"c":{"const":3}}})",
       {R"({})", R"({"a":1})", R"({"b":2})", R"({"a":1,"c":3})", R"({"a":1,"b":2,"c":3})"},
       {R"({,"b":2})", R"({"c":3,"a":1})", R"({"a":2})"}},
      {R"({"type":"object","properties":{"ab":{"type":"null"}},"additionalProperties":{"type":"boolean"}})",
       {R"({"ab":null})", R"({"ab":null,"a":true})", R"({"abc":false,"b":true})", R"({"":true})"},
       {R"({"ab":true})", R"({"a":true,"ab":true})", R"({"x":1})", R"({"a\u0062":true})"}},
      {R"({"type":"object","required":["x"],"additionalProperties":{"type":"integer"}})",
       {R"({"x":1})", R"({"x":1,"y":2})"},
       {R"({})", R"({"y":2})", R"({"x":"1"})"}},
      {R"({"type":"array","items":{"enum":["a",1,null,[2,{"b":"c d"}]]},"minItems":1,"maxItems":3})",
       {R"(["a"])", R"([1,null, "a"])", R"([[2,{"b":"c d"}]])"},
       {"[]", R"(["b"])", "[1,1,1,1]", "[1,]"}},
      {R"({"prefixItems":[{"type":"boolean"},{"type":"null"}],"items":{"type":"integer"},"minItems":1})",
       {"[true]", "[true,null]", "[false,null,3,4]"},
       {"[]", "[null]", "[true,3]"}},
      {R"({"prefixItems":[{"type":"boolean"}],"minItems":3,"maxItems":3})",
       {"[true,1,\"x\"]"},
       {"[true]", "[true,1]", "[true,1,1,1]"}},
      {R"({"type":["integer","null"],"minimum":-3,"maximum":12})",
       {"-3", "-1", "0", "9", "10", "12", "null"},
       {"-4", "13", "-0", "00", "100", "1.0", "true"}},
      {R"({"type":"integer","exclusiveMinimum":-100,"exclusiveMaximum":-9})",
       {"-99", "-10", "-55"},
       {"-100", "-9", "0", "-101", "5"}},
      {R"({"type":"integer","minimum":95})", {"95", "99", "100", "12345"}, {"94", "-96", "9", "0"}},
      {R"({"type":"number","minimum":0,"exclusiveMaximum":2})",
       {"0", "0.5", "1", "1.99", "0.0"},
       {"2", "2.0", "-1", "-0.5", "3", ".5", "1."}},
      {R"({"type":"number","exclusiveMinimum":0})",
       {"0.001", "1", "17.5"},
       {"0", "0.0", "-1", "00.1"}},
      {R"({"type":"number","minimum":-2,"maximum":-1})",
       {"-1", "-1.0", "-1.5", "-2", "-2.0"},
       {"-2.1", "-0.9", "1", "0", "-3"}},
      {R"({"type":"string","minLength":2,"maxLength":3})",
       {R"("ab")", R"("é日\"")", R"("\\\n")"},
       {R"("a")", R"("abcd")", R"("a)", "\"a\nb\""}},
      {R"({"type":"string","pattern":"^[a-c]+\"$"})", {R"("ab\"")"}, {R"("ab"")", R"("d\"")"}},
      {R"({"pattern":"b{2}"})", {R"("bb")", R"("abbc")"}, {R"("b")", R"("bab")"}},
      {R"({"format":"date"})", {R"("2024-02-28")"}, {R"("2024-13-01")", R"("24-02-01")"}},
      {R"({"anyOf":[{"type":"boolean"},{"type":"array","maxItems":0}]})",
       {"true", "[]"},
       {"[1]", "1"}},
      {R"({"oneOf":[{"type":"object","properties":{"k":{"const":"a"}},"required":["k"]},
          {"type":"object","properties":{"k":{"enum":["b","c"]},"v":{"type":"null"}},"required":["k","v"]}]})",
       {R"({"k":"a"})", R"({"k":"c","v":null})"},
       {R"({"k":"b"})", R"({"k":"a","v":null})"}},
      {R"({"$ref":"#/$defs/node","$defs":{"node":{"type":"object","properties":{"v":{"type":"integer"},
          "next":{"$ref":"#/$defs/node"}},"required":["v"]}}})",
       {R"({"v":1})", R"({"v":1,"next":{"v":2,"next":{"v":3}}})"},
       {R"({"v":1,"next":{}})", R"({"next":{"v":1}})"}},
      {"true",
       {"1", "\"x\"", "[1,[2,{}]]", R"({"a":{"b":[true,null]}})", "-1.5e+10"},
       {"", "[1,]", "nul"}},
      {R"({"enum":["x",1,2.5],"type":"integer"})", {"1"}, {"2.5", R"("x")"}},
      {R"({"title":"t","description":"d","type":"object"})", {"{}", R"({"a":1,"b":[]})"}, {"[]"}}};
  for (const Case& c : cases) {
    const auto constraint = CompileFor(tokenizer, ConstraintSource::JsonSchema(c.schema));
    ASSERT_TRUE(constraint.ok()) << c.schema << ": " << constraint.status();
    for (const char* text : c.accepted)
      EXPECT_TRUE(Accepts(**constraint, *tokenizer, text)) << c.schema << text;
    for (const char* text : c.rejected)
      EXPECT_FALSE(Accepts(**constraint, *tokenizer, text)) << c.schema << text;
  }
}

TEST(JsonSchema, RandomTextsAreJson) {
  const auto tokenizer = MixedTokenizer();
  std::mt19937_64 rng(3);
  for (const auto& source : {ConstraintSource::JsonObject(), ConstraintSource::JsonSchema("{}")}) {
    const auto constraint = CompileFor(tokenizer, source);
    ASSERT_TRUE(constraint.ok()) << constraint.status();
    EXPECT_GE((*constraint)->depth(), 3);
    int complete = 0;
    for (int i = 0; i < 3000; ++i) {
      const auto text = RandomText(**constraint, *tokenizer, rng, 60);
      if (!text) continue;
      ++complete;
      ASSERT_TRUE(nlohmann::json::accept(*text)) << *text;
    }
    EXPECT_GT(complete, 20);
  }
}

TEST(JsonSchema, RefusesByNameWhatItDoesNotSupport) {
  const std::pair<const char*, const char*> kRefused[] = {
      {R"({"not":{}})", "'not'"},
      {R"({"if":{},"then":{}})", "'if'"},
      {R"({"properties":{"a":{"patternProperties":{}}}})",
       "at #/properties/a: the keyword 'patternProperties'"},
      {R"({"items":{"uniqueItems":true}})", "'uniqueItems'"},
      {R"({"type":"integer","multipleOf":2})", "'multipleOf'"},
      {R"({"allOf":[{},{}]})", "'allOf'"},
      {R"({"oneOf":[{"type":"integer"},{"type":"number"}]})", "'oneOf'"},
      {R"({"oneOf":[{"const":[1]},{"enum":[[1],2]}]})", "'oneOf'"},
      {R"({"type":"number","minimum":0.5})", "'minimum'"},
      {R"({"type":"string","format":"hostname"})", "hostname"},
      {R"x({"type":"string","pattern":"(?=a)"})x", "lookahead"},
      {R"({"type":"string","pattern":"a","maxLength":3})", "only one of"},
      {R"({"$ref":"https://example.com/s"})", "only #/"},
      {R"({"$ref":"#/$defs/none"})", "finds nothing"},
      {R"({"$ref":"#/$defs/a","minLength":1,"$defs":{"a":{}}})", "beside '$ref'"},
      {R"({"anyOf":[{}],"type":"object"})", "beside 'anyOf'"},
      {R"({"type":"float"})", "'type'"},
      {R"({"minItems":-1})", "'minItems'"},
      {R"({"maxLength":1000000})", "'maxLength'"},
      {R"({"$ref":"#"})", "left recursion"},
      {R"([1])", "a schema is an object"},
      {R"({"a")", "not JSON"}};
  const auto tokenizer = MixedTokenizer();
  for (const auto& [schema, message] : kRefused) {
    const auto compiled = CompileFor(tokenizer, ConstraintSource::JsonSchema(schema));
    ASSERT_EQ(compiled.status().code(), absl::StatusCode::kInvalidArgument) << schema;
    EXPECT_THAT(std::string(compiled.status().message()), HasSubstr(message)) << schema;
    EXPECT_EQ(ErrorField(compiled.status()), "constraint.json_schema");
  }
  EXPECT_FALSE(
      ConstraintSource::JsonSchema(std::string(30000, '[') + std::string(30000, ']')).ok());
  const auto never = CompileFor(
      tokenizer, ConstraintSource::JsonSchema(R"({"type":"integer","minimum":3,"maximum":2})"));
  EXPECT_EQ(ErrorReason(never.status()), "CONSTRAINT_UNSATISFIABLE");
}

// As many as there may be properties, all optional: the automaton must not square them.
TEST(JsonSchema, ManyOptionalPropertiesStaySmall) {
  nlohmann::json schema = {{"type", "object"}, {"properties", nlohmann::json::object()}};
  for (int i = 0; i < 100; ++i) {
    schema["properties"]["name" + std::to_string(1000 + i)] = {{"type", "boolean"}};
  }
  const auto tokenizer = MixedTokenizer();
  const auto constraint = CompileFor(tokenizer, ConstraintSource::JsonSchema(schema.dump()));
  ASSERT_TRUE(constraint.ok()) << constraint.status();
  EXPECT_LT((*constraint)->states(), 6000u);
  EXPECT_TRUE(Accepts(**constraint, *tokenizer, R"({"name1003":true,"name1090": false})"));
}

}  // namespace
}  // namespace lift
