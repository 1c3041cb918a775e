// The five commands of lift-eval, each from its options to the text on stdout.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "calibration/router/collect.h"
#include "kernels/base/kv_format.h"
#include "kernels/base/status.h"
#include "kernels/format/lifted_file.h"
#include "server/config/answer_flags.h"
#include "server/engine/sampler.h"

namespace lift::eval {

struct CommonOptions {
  std::string model;            // lifted file, GGUF file or Hugging Face folder
  std::string text_path;        // commands that read a text
  int threads = 0;              // 0 = all cores
  std::string device = "auto";  // checked by the parser
  bool json = false;
  std::vector<double> cut_mb;  // further variants of these sizes, MB
  std::string kv_cache = std::string(KvFormatName(kDefaultKvFormat));  // checked by the parser
  LiftedFile::OpenOptions open_options() const { return {.cuts = BytesOfMegabytes(cut_mb)}; }
  KvFormat kv_format() const { return *ParseKvFormat(kv_cache); }
};

struct PerplexityOptions {
  std::string variant = "all", reference;
  int64_t context = 1024, max_tokens = 0;
  bool prefill = false;  // as prompts are read
};

struct GenerateCommandOptions {
  std::string prompt, variant, prefill_variant;  // empty variant = the finest
  int64_t max_new_tokens = 128;
  int64_t min_new_tokens = 0;
  double escalate = 0;
  SamplingParams sampling;
  std::vector<std::string> logit_bias;  // "TOKEN_ID:BIAS"
  std::vector<std::string> stop;
  std::vector<int32_t> stop_token_ids;
  ConstraintFlags constraint;
  bool chat = false, ignore_eos = false, parse_special = false;
};

struct LogitsOptions {
  std::vector<int32_t> token_ids;
  std::string variant, out;
};

struct TokenizeOptions {
  bool add_special = true, parse_special = true;
};

struct RouterOptions {
  CollectRequest collect;  // prompts and how they are answered; the rest comes from CommonOptions
  std::vector<double> levels;  // mean bits to compare at
  int resamples = 1000;
  int most_drafts = 0;              // tokens that decoding may guess ahead
  std::string policy = "balanced";  // for the table by kind
  std::string plot;                 // SVG to write
};

absl::Status RunPerplexity(const CommonOptions& common, const PerplexityOptions& options);
absl::Status RunGenerate(const CommonOptions& common, const GenerateCommandOptions& options);
absl::Status RunLogits(const CommonOptions& common, const LogitsOptions& options);
absl::Status RunTokenize(const CommonOptions& common, const TokenizeOptions& options);
absl::Status RunRouter(const CommonOptions& common, const RouterOptions& options);

}  // namespace lift::eval
