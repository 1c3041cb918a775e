// lift-eval: perplexity and KL of a model's variants, generation, logits and tokens, all without a
// server.
#include <CLI/CLI.hpp>
#include <cstdio>

#include "calibration/eval/commands.h"

namespace lift::eval {
namespace {

constexpr char kAbout[] =
    "Measures a model's precision variants on a text, or runs the model once.\n\n"
    "Without a subcommand: perplexity of each variant over non-overlapping windows of the text, "
    "and with --reference\n"
    "the mean KL divergence (nats) from the reference's next-token distribution and how often both "
    "agree on the\n"
    "most likely token. A model is a lifted file, a GGUF file or a Hugging Face folder.\n\n"
    "Examples:\n"
    "  lift-eval --model smollm2.lift --text held_out.txt --reference SmolLM2.gguf\n"
    "  lift-eval generate --model smollm2.lift --variant q4.0 --prompt 'The capital of France is' "
    "--max-new-tokens 16\n"
    "  lift-eval logits --model SmolLM2.gguf --token-ids 1,2,3 --out logits.npy";

void AddModelOptions(CLI::App& app, CommonOptions& common, bool required) {
  app.add_option("--model", common.model, "Lifted file, GGUF file or Hugging Face folder")
      ->required(required);
  app.add_option("--threads", common.threads, "Threads; 0 = every core this process may use")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  app.add_option("--device", common.device,
                 "auto (a GPU if there is one and it computes what the CPU does), cpu or cuda")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}))
      ->capture_default_str();
  app.add_option("--cut-mb", common.cut_mb,
                 "Further variants of a lifted file of these sizes in MB, named b<MB>")
      ->delimiter(',')
      ->check(CLI::Range(1e-3, 1e9));
  app.add_flag("--json", common.json, "One JSON object on stdout");
}

void AddStateOption(CLI::App& app, CommonOptions& common) {
  app.add_option("--kv-cache", common.kv_cache,
                 "How attention state is kept; the server's default, so that both give the same")
      ->check(CLI::IsMember({"f32", "f16", "bf16", "int8"}))
      ->capture_default_str();
}

void AddSamplingOptions(CLI::App& app, SamplingParams& sampling) {
  app.add_option("--seed", sampling.seed, "Seed of the random numbers")->capture_default_str();
  app.add_option("--temperature", sampling.temperature, "0 = always the most likely token")
      ->capture_default_str();
  app.add_option("--top-k", sampling.top_k, "Keep the K most likely tokens; 0 = all")
      ->capture_default_str();
  app.add_option("--top-p", sampling.top_p, "Keep the tokens that make up this probability")
      ->capture_default_str();
  app.add_option("--min-p", sampling.min_p, "Keep tokens at least this likely relative to the best")
      ->capture_default_str();
  app.add_option("--repetition-penalty", sampling.repetition_penalty, "1 = off")
      ->capture_default_str();
  app.add_option("--presence-penalty", sampling.presence_penalty, "0 = off")->capture_default_str();
  app.add_option("--frequency-penalty", sampling.frequency_penalty, "0 = off")
      ->capture_default_str();
}

void AddEndOptions(CLI::App& app, GenerateCommandOptions& o) {
  app.add_option("--logit-bias", o.logit_bias, "TOKEN_ID:BIAS, comma-separated")->delimiter(',');
  app.add_option("--min-new-tokens", o.min_new_tokens, "No end before this many tokens")
      ->capture_default_str();
  app.add_option("--stop", o.stop, "End with this string (may be repeated)")
      ->allow_extra_args(false);
  app.add_option("--stop-token-ids", o.stop_token_ids, "End at these tokens")->delimiter(',');
  AddConstraintFlags(app, o.constraint);
}

void AddRouterOptions(CLI::App& app, RouterOptions& o) {
  TraceOptions& trace = o.collect.trace;
  app.add_option("--prompts", o.collect.prompts,
                 "JSON lines with \"prompt\" or \"messages\", none of them trained on")
      ->required();
  app.add_option("--traces", o.collect.traces,
                 "Keep what was measured in this file, or use what is in it");
  app.add_option("--limit", o.collect.limit, "Only the first so many prompts; 0 = all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option(
         "--levels", o.levels,
         "Budgets in mean bits per weight to compare at; default three between the coarsest "
         "fit variant and the finest")
      ->delimiter(',')
      ->check(CLI::Range(0.5, 32.0));
  app.add_option("--max-new-tokens", trace.max_new_tokens, "Tokens of an answer, at most")
      ->check(CLI::Range(2, 4096))
      ->capture_default_str();
  app.add_option("--temperature", trace.temperature,
                 "Of the answers; 1 = the model's own distribution, 0 = greedy")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str();
  app.add_option("--seed", trace.seed, "Of the answers")->capture_default_str();
  app.add_flag("--exact", trace.exact,
               "Score with the roundings of decoding instead of a prompt's; several times slower");
  app.add_flag("--kept-state", trace.kept_state,
               "Also measure raising an answer half-way with the coarser state kept");
  app.add_option("--resamples", o.resamples, "Bootstrap samples behind the intervals")
      ->check(CLI::Range(0, 1000000))
      ->capture_default_str();
  app.add_option("--route", o.policy,
                 "Policy whose choices are shown by kind of prompt, as for lift-server")
      ->capture_default_str();
  app.add_option("--speculate", o.most_drafts,
                 "Tokens that decoding may guess ahead, as for lift-server; what is read then "
                 "counts, and the router chooses by it")
      ->check(CLI::Range(0, 16))
      ->capture_default_str();
  app.add_option("--plot", o.plot, "Write the curves as SVG");
}

// Wrong input is the caller's to mend (2); the rest is work that failed (1).
int ExitCode(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return 0;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kUnimplemented:
      return 2;
    default:
      return 1;
  }
}

int Main(int argc, char** argv) {
  CLI::App app(kAbout, "lift-eval");
  CommonOptions common;
  PerplexityOptions perplexity;
  GenerateCommandOptions generate;
  LogitsOptions logits;
  TokenizeOptions tokenize;
  RouterOptions router;
  app.require_subcommand(0, 1);

  AddModelOptions(app, common, false);
  AddStateOption(app, common);
  app.add_option("--text", common.text_path, "UTF-8 text to score");
  app.add_option("--variant", perplexity.variant, "Variants to score (comma-separated), or all")
      ->capture_default_str();
  app.add_option("--context", perplexity.context, "Tokens of a window, capped by the model")
      ->check(CLI::Range(int64_t{2}, int64_t{1} << 24))
      ->capture_default_str();
  app.add_option("--max-tokens", perplexity.max_tokens,
                 "Use only this many tokens of the text; 0 = all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_flag("--prefill", perplexity.prefill,
               "Score with the roundings of a prompt instead of those of an answer");
  app.add_option("--reference", perplexity.reference, "Unquantized model to compare with");

  CLI::App* generate_app =
      app.add_subcommand("generate",
                         "Continue a prompt. As in the server the prompt is read at the finest "
                         "variant, then --variant decodes.");
  AddModelOptions(*generate_app, common, true);
  AddStateOption(*generate_app, common);
  generate_app->add_option("--prompt", generate.prompt, "The text to continue")->required();
  generate_app->add_option("--variant", generate.variant,
                           "Variant to decode with; default the finest");
  generate_app->add_option("--prefill-variant", generate.prefill_variant,
                           "Variant to read the prompt with; default the finest");
  generate_app->add_option("--escalate", generate.escalate,
                           "Raise precision within the answer as a server with this flag does; "
                           "--variant is where it begins");
  generate_app->add_option("--max-new-tokens", generate.max_new_tokens, "At most this many tokens")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 24))
      ->capture_default_str();
  AddSamplingOptions(*generate_app, generate.sampling);
  AddEndOptions(*generate_app, generate);
  generate_app->add_flag("--chat", generate.chat,
                         "Send the prompt as a user message through the model's chat template");
  generate_app->add_flag("--parse-special", generate.parse_special,
                         "Special tokens written in the prompt become their ids");
  generate_app->add_flag("--ignore-eos", generate.ignore_eos,
                         "Do not stop at the model's end tokens");

  CLI::App* logits_app = app.add_subcommand(
      "logits", "Write the logits after each token as float32 .npy [tokens, vocab].");
  AddModelOptions(*logits_app, common, true);
  AddStateOption(*logits_app, common);
  logits_app->add_option("--token-ids", logits.token_ids, "Comma-separated ids")
      ->required()
      ->delimiter(',');
  logits_app->add_option("--variant", logits.variant, "Variant; default the finest");
  logits_app->add_option("--out", logits.out, "The .npy file to write")->required();

  CLI::App* tokenize_app = app.add_subcommand("tokenize", "Print the token ids of a text.");
  AddModelOptions(*tokenize_app, common, true);
  tokenize_app->add_option("--text", common.text_path, "UTF-8 text")->required();
  tokenize_app->add_flag("!--no-special", tokenize.add_special, "Do not add BOS or EOS");
  tokenize_app->add_flag("!--plain", tokenize.parse_special,
                         "Special tokens written in the text stay plain text");

  CLI::App* router_app = app.add_subcommand(
      "router",
      "Judge the router of a lifted file on prompts: mean KL to the finest variant against the "
      "best "
      "single precision at equal cost, with random mixing, a cascade and an oracle.");
  AddModelOptions(*router_app, common, true);
  AddStateOption(*router_app, common);
  AddRouterOptions(*router_app, router);

  try {
    app.parse(argc, argv);
    if (app.get_subcommands().empty() && (common.model.empty() || common.text_path.empty())) {
      throw CLI::RequiredError("--model and --text");
    }
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  const absl::Status status = generate_app->parsed()   ? RunGenerate(common, generate)
                              : logits_app->parsed()   ? RunLogits(common, logits)
                              : tokenize_app->parsed() ? RunTokenize(common, tokenize)
                              : router_app->parsed()   ? RunRouter(common, router)
                                                       : RunPerplexity(common, perplexity);
  if (!status.ok()) std::fprintf(stderr, "lift-eval: %s\n", std::string(status.message()).c_str());
  return ExitCode(status);
}

}  // namespace
}  // namespace lift::eval

int main(int argc, char** argv) { return lift::eval::Main(argc, argv); }
