// Traces as a CBOR document: small, exact and readable by any CBOR library.
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "calibration/router/trace.h"

namespace lift {
namespace {

using nlohmann::json;

constexpr char kFormat[] = "liftserve-router-traces-1";

json TextToJson(const router::TextFeatures& t) {
  return {t.bytes,
          t.words,
          t.lines,
          t.sentences,
          t.mean_word_length,
          t.distinct_word_ratio,
          t.digit_ratio,
          t.symbol_ratio,
          t.non_ascii_ratio,
          t.has_code,
          t.has_math,
          t.has_list,
          t.is_question,
          t.reasoning_words,
          t.turns};
}

router::TextFeatures TextFromJson(const json& j) {
  router::TextFeatures t;
  t.bytes = j.at(0), t.words = j.at(1), t.lines = j.at(2), t.sentences = j.at(3);
  t.mean_word_length = j.at(4), t.distinct_word_ratio = j.at(5);
  t.digit_ratio = j.at(6), t.symbol_ratio = j.at(7), t.non_ascii_ratio = j.at(8);
  t.has_code = j.at(9), t.has_math = j.at(10), t.has_list = j.at(11), t.is_question = j.at(12);
  t.reasoning_words = j.at(13), t.turns = j.at(14);
  return t;
}

json PromptToJson(const PromptTrace& p) {
  return {{"kind", p.kind},
          {"source", p.source},
          {"language", p.language},
          {"text", TextToJson(p.text)},
          {"prefill",
           {p.prefill.available, p.prefill.prompt_tokens, p.prefill.mean_nll,
            p.prefill.last_entropy, p.prefill.last_margin, p.prefill.probe_kl}},
          {"positions", p.positions},
          {"kl", p.kl},
          {"entropy", p.entropy},
          {"agrees", json::binary(p.agrees)},
          {"draws", p.draws},
          {"kept", p.kept}};
}

PromptTrace PromptFromJson(const json& j) {
  PromptTrace p;
  p.kind = j.at("kind"), p.source = j.at("source"), p.language = j.at("language");
  p.text = TextFromJson(j.at("text"));
  const json& prefill = j.at("prefill");
  p.prefill = {.available = prefill.at(0),
               .prompt_tokens = prefill.at(1),
               .mean_nll = prefill.at(2),
               .last_entropy = prefill.at(3),
               .last_margin = prefill.at(4),
               .probe_kl = prefill.size() > 5 ? prefill.at(5).get<double>() : -1};
  p.positions = j.at("positions");
  p.kl = j.at("kl").get<std::vector<float>>();
  p.entropy = j.at("entropy").get<std::vector<float>>();
  p.agrees = j.at("agrees").get_binary();
  if (j.contains("draws")) p.draws = j.at("draws").get<std::vector<int32_t>>();
  if (j.contains("kept")) p.kept = j.at("kept").get<std::vector<float>>();
  return p;
}

TraceSet SetFromJson(const json& j) {
  TraceSet set;
  set.weights_sha256 = j.at("weights_sha256");
  set.temperature = j.at("temperature");
  set.seed = j.at("seed");
  for (const json& v : j.at("variants")) {
    set.variants.push_back({.name = v.at("name"),
                            .lambda = v.at("lambda"),
                            .bits_per_weight = v.at("bits_per_weight"),
                            .plane_bytes = v.at("plane_bytes"),
                            .kl = v.at("kl")});
  }
  for (const json& p : j.at("prompts")) set.prompts.push_back(PromptFromJson(p));
  return set;
}

bool Consistent(const TraceSet& set) {
  if (set.variants.empty()) return false;
  for (const PromptTrace& p : set.prompts) {
    if (p.positions < 1 || p.positions > int64_t{1} << 24) return false;
    const size_t cells = set.variants.size() * static_cast<size_t>(p.positions);
    if (!p.draws.empty() && p.draws.size() != cells) return false;
    if (!p.kept.empty() && p.kept.size() != set.variants.size()) return false;
    if (p.kl.size() != cells || p.entropy.size() != cells || p.agrees.size() != cells) return false;
  }
  return true;
}

}  // namespace

absl::Status SaveTraces(const std::string& path, const TraceSet& traces) {
  json variants = json::array(), prompts = json::array();
  for (const TraceVariant& v : traces.variants) {
    variants.push_back({{"name", v.name},
                        {"lambda", v.lambda},
                        {"bits_per_weight", v.bits_per_weight},
                        {"plane_bytes", v.plane_bytes},
                        {"kl", v.kl}});
  }
  for (const PromptTrace& p : traces.prompts) prompts.push_back(PromptToJson(p));
  const std::vector<uint8_t> bytes = json::to_cbor({{"format", kFormat},
                                                    {"weights_sha256", traces.weights_sha256},
                                                    {"temperature", traces.temperature},
                                                    {"seed", traces.seed},
                                                    {"variants", std::move(variants)},
                                                    {"prompts", std::move(prompts)}});
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(reinterpret_cast<const char*>(bytes.data()),
            static_cast<std::streamsize>(bytes.size()));
  out.close();
  if (!out) return absl::InternalError(absl::StrCat("cannot write the traces '", path, "'"));
  return absl::OkStatus();
}

absl::StatusOr<TraceSet> LoadTraces(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in.is_open())
    return absl::NotFoundError(absl::StrCat("cannot read the traces '", path, "'"));
  const std::vector<uint8_t> bytes((std::istreambuf_iterator<char>(in)),
                                   std::istreambuf_iterator<char>());
  const json document = json::from_cbor(bytes, true, /*allow_exceptions=*/false);
  try {  // at() and conversions report what is missing or of another type by throwing
    if (document.at("format") == kFormat) {
      TraceSet set = SetFromJson(document);
      if (Consistent(set)) return set;
    }
  } catch (const json::exception&) {
  }
  return absl::InvalidArgumentError(absl::StrCat("'", path, "' is not a file of router traces"));
}

}  // namespace lift
