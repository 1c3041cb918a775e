#include "tests/bench/bench_constraint.h"

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <nlohmann/json.hpp>
#include <random>

#include "calibration/eval/session.h"
#include "server/constraint/constraint.h"
#include "server/engine/sampler.h"

namespace lift::bench {
namespace {

// CPU time of this thread in microseconds, so that other jobs on the machine do not count.
double Now() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e6 + static_cast<double>(now.tv_nsec) / 1e3;
}

struct Named {
  std::string name;
  ConstraintSource::Result source;
};

// What people ask for, and what is as large as it may be.
std::vector<Named> Usual() {
  const char* person =
      R"({"type":"object","properties":{"name":{"type":"string"},"age":{"type":"integer","minimum":0,
      "maximum":130},"email":{"type":"string","format":"email"},"tags":{"type":"array","items":
      {"type":"string"},"maxItems":5},"address":{"type":"object","properties":{"street":{"type":"string"},
      "city":{"type":"string"},"zip":{"type":"string","pattern":"^[0-9]{5}$"}},"required":["street","city"]}},
      "required":["name","age"]})";
  return {{"choice of 3", ConstraintSource::Choices({"positive", "negative", "neutral"})},
          {"regex date", ConstraintSource::Regex("\\d{4}-\\d{2}-\\d{2}")},
          {"regex words", ConstraintSource::Regex("[A-Z][a-z]+( [a-z]+){0,20}\\.")},
          {"regex .{0,500}", ConstraintSource::Regex(".{0,500}")},
          {"schema person", ConstraintSource::JsonSchema(person)},
          {"any JSON object", ConstraintSource::JsonObject()},
          {"grammar sums",
           ConstraintSource::Ebnf("root ::= p ((\"+\" | \"-\") p)*\np ::= f (\"*\" f)*\n"
                                  "f ::= [0-9]{1,4} | \"(\" root \")\"")}};
}

struct Times {
  std::vector<double> values;
  double At(double quantile) {
    if (values.empty()) return 0;
    std::sort(values.begin(), values.end());
    return values[static_cast<size_t>(quantile * static_cast<double>(values.size() - 1))];
  }
};

struct Result {
  double compile_ms = 0;
  Times automaton, masked, plain;  // us a token
};

// Draws `tokens` tokens from random logits, starting anew when the text is complete.
void Draw(const CompiledConstraint& constraint, const SamplingParams& sampling, int64_t vocab,
          int tokens, Result& result) {
  std::mt19937_64 rng(1);
  std::vector<float> logits(static_cast<size_t>(vocab) + 4096);
  std::normal_distribution<float> normal(0, 3);
  for (float& x : logits) x = normal(rng);
  const TokenHistory history;
  int32_t state = constraint.start();
  for (int i = 0; i < tokens; ++i) {
    const auto row =
        std::span<const float>(logits).subspan(rng() % 4096, static_cast<size_t>(vocab));
    double start = Now();
    (void)Sample(row, sampling, history, i);
    result.plain.values.push_back((Now() - start));
    start = Now();
    const TokenMask mask{.words = constraint.Allowed(state), .also = {}};
    const int32_t token = Sample(row, sampling, history, i, {}, &mask).id;
    result.masked.values.push_back((Now() - start));
    start = Now();
    state = constraint.Advance(state, token);
    const bool complete = constraint.Complete(state);
    result.automaton.values.push_back((Now() - start));
    if (complete || rng() % 100 == 0) state = constraint.start();
  }
}

nlohmann::json Measure(const Named& named, const std::shared_ptr<const Tokenizer>& tokenizer,
                       const TokenTrie& trie, int tokens) {
  nlohmann::json out = {{"name", named.name}};
  const double start = Now();
  const absl::StatusOr<std::shared_ptr<const CompiledConstraint>> compiled =
      named.source.ok() ? CompiledConstraint::Compile(**named.source, tokenizer, trie)
                        : named.source.status();
  out["compile_ms"] = (Now() - start) / 1000;
  if (!compiled.ok()) {
    out["refused"] = std::string(compiled.status().message());
    return out;
  }
  const CompiledConstraint& c = **compiled;
  Result greedy, sampled;
  SamplingParams warm;
  warm.temperature = 1;
  Draw(c, {}, tokenizer->vocab_size(), tokens, greedy);
  Draw(c, warm, tokenizer->vocab_size(), tokens, sampled);
  const auto added = [](Result& r, double q) { return r.masked.At(q) - r.plain.At(0.5); };
  out["states"] = c.states();
  out["masks"] = c.masks();
  out["bytes"] = c.bytes();
  out["depth"] = c.depth();
  out["advance_us"] = {greedy.automaton.At(0.5), greedy.automaton.At(0.99)};
  out["greedy_added_us"] = {added(greedy, 0.5), added(greedy, 0.99)};
  out["sampled_added_us"] = {added(sampled, 0.5), added(sampled, 0.99)};
  return out;
}

void PrintTable(const nlohmann::json& out) {
  std::printf(
      "vocabulary %d, trie %.1f ms; CPU us a token, p50 and p99\n%-20s %11s %7s %6s %7s %15s %19s "
      "%19s\n",
      out["vocabulary"].get<int>(), out["trie_ms"].get<double>(), "constraint", "compile", "states",
      "masks", "KiB", "advance", "greedy - plain", "sampled - plain");
  for (const nlohmann::json& c : out["constraints"]) {
    std::printf("%-20s %8.1f ms ", c["name"].get<std::string>().c_str(),
                c["compile_ms"].get<double>());
    if (c.contains("refused")) {
      std::printf(" %s\n", c["refused"].get<std::string>().c_str());
      continue;
    }
    std::printf("%7d %6d %7d", c["states"].get<int>(), c["masks"].get<int>(),
                c["bytes"].get<int>() >> 10);
    for (const char* key : {"advance_us", "greedy_added_us", "sampled_added_us"}) {
      std::printf(" %9.2f %9.2f", c[key][0].get<double>(), c[key][1].get<double>());
    }
    std::printf("\n");
  }
}

}  // namespace

ConstraintCommand::ConstraintCommand(CLI::App& app)
    : command_(app.add_subcommand("constraint",
                                  "time to compile constraints and to draw a token under them")) {
  command_->add_option("--model", model_, "whose vocabulary")->required();
  command_->add_option("--regex", regexes_, "this pattern, too (may be repeated)")
      ->allow_extra_args(false);
  command_->add_option("--json-schema", schemas_, "this schema, too (may be repeated)")
      ->allow_extra_args(false);
  command_->add_option("--tokens", tokens_, "tokens to draw")->check(CLI::Range(10, 1000000));
  command_->add_flag("--json", json_, "print one JSON object on stdout");
}

int ConstraintCommand::Run() const {
  const auto fail = [](const absl::Status& status) {
    std::fprintf(stderr, "lift-bench: %s\n", std::string(status.message()).c_str());
    return 2;
  };
  const auto weights = Weights::Open(model_);
  if (!weights.ok()) return fail(weights.status());
  const auto tokenizer = eval::LoadTokenizer(**weights);
  if (!tokenizer.ok()) return fail(tokenizer.status());
  const double start = Now();
  const TokenTrie trie(**tokenizer);
  nlohmann::json out = {{"vocabulary", (*tokenizer)->vocab_size()},
                        {"trie_ms", (Now() - start) / 1000},
                        {"constraints", nlohmann::json::array()}};
  std::vector<Named> all = Usual();
  for (const std::string& r : regexes_) all.push_back({r, ConstraintSource::Regex(r)});
  for (const std::string& s : schemas_) all.push_back({s, ConstraintSource::JsonSchema(s)});
  for (const Named& named : all)
    out["constraints"].push_back(Measure(named, *tokenizer, trie, tokens_));
  if (json_) {
    std::printf("%s\n", out.dump(2).c_str());
  } else {
    PrintTable(out);
  }
  return 0;
}

}  // namespace lift::bench
