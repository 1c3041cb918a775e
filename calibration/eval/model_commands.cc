// generate, logits and tokenize.
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "calibration/eval/commands.h"
#include "calibration/eval/generate.h"
#include "calibration/eval/npy.h"
#include "calibration/eval/session.h"
#include "server/model/model_layout.h"
#include "server/model/transformer.h"
#include "server/tokenizer/chat_prompt.h"

namespace lift::eval {
namespace {

using nlohmann::json;

absl::StatusOr<int> VariantOrFinest(const Weights& weights, const std::string& name) {
  if (name.empty()) return static_cast<int>(weights.variants().size()) - 1;
  return FindVariant(weights, name);
}

absl::StatusOr<std::vector<int32_t>> EncodePrompt(const Tokenizer& tokenizer,
                                                  const GenerateCommandOptions& options) {
  if (!options.chat) {
    return tokenizer.Encode(options.prompt,
                            {.add_special = true, .parse_special = options.parse_special});
  }
  const TokenizerSpec& spec = tokenizer.spec();
  if (spec.chat_template.empty()) {
    return absl::InvalidArgumentError("the model has no chat template; generate without --chat");
  }
  LIFT_ASSIGN_OR_RETURN(const auto chat_template, ChatTemplate::Compile(spec.chat_template));
  return EncodeChat(tokenizer, *chat_template, {{"user", options.prompt}});
}

absl::StatusOr<std::string> TextOrFile(const std::string& value) {
  return value.starts_with('@') ? ReadText(value.substr(1)) : value;
}

// Null if none is asked for.
absl::StatusOr<std::shared_ptr<const CompiledConstraint>> Constraint(
    const ConstraintFlags& flags, const std::shared_ptr<const Tokenizer>& tokenizer) {
  ConstraintSource::Result source = nullptr;
  if (!flags.regex.empty()) {
    LIFT_ASSIGN_OR_RETURN(const std::string text, TextOrFile(flags.regex));
    source = ConstraintSource::Regex(text);
  } else if (!flags.json_schema.empty()) {
    LIFT_ASSIGN_OR_RETURN(const std::string text, TextOrFile(flags.json_schema));
    source = ConstraintSource::JsonSchema(text);
  } else if (!flags.grammar.empty()) {
    LIFT_ASSIGN_OR_RETURN(const std::string text, TextOrFile(flags.grammar));
    source = ConstraintSource::Ebnf(text);
  } else if (!flags.choices.empty()) {
    source = ConstraintSource::Choices(flags.choices);
  } else if (flags.json_object) {
    source = ConstraintSource::JsonObject();
  }
  if (!source.ok()) return source.status();
  if (*source == nullptr) return nullptr;
  return CompiledConstraint::Compile(**source, tokenizer, TokenTrie(*tokenizer));
}

}  // namespace

absl::Status RunGenerate(const CommonOptions& common, const GenerateCommandOptions& options) {
  LIFT_ASSIGN_OR_RETURN(std::shared_ptr<const Weights> weights,
                        Weights::Open(common.model, common.open_options()));
  GenerateOptions generate;
  LIFT_ASSIGN_OR_RETURN(generate.variant, VariantOrFinest(*weights, options.variant));
  LIFT_ASSIGN_OR_RETURN(generate.prefill_variant,
                        VariantOrFinest(*weights, options.prefill_variant));
  LIFT_ASSIGN_OR_RETURN(auto tokenizer, LoadTokenizer(*weights));
  LIFT_ASSIGN_OR_RETURN(const std::vector<int32_t> prompt, EncodePrompt(*tokenizer, options));
  generate.max_new_tokens = options.max_new_tokens;
  generate.escalation = options.escalate;
  generate.sampling = options.sampling;
  LIFT_ASSIGN_OR_RETURN(const auto biases, ParseLogitBias(options.logit_bias));
  for (const auto& [id, bias] : biases) generate.sampling.logit_bias[id] = bias;
  if (!options.ignore_eos) generate.stop_ids = StopIds(tokenizer->spec());
  generate.stop_ids.insert(generate.stop_ids.end(), options.stop_token_ids.begin(),
                           options.stop_token_ids.end());
  generate.min_new_tokens = options.min_new_tokens;
  generate.stop_strings = options.stop;
  generate.tokenizer = tokenizer.get();
  LIFT_ASSIGN_OR_RETURN(generate.constraint, Constraint(options.constraint, tokenizer));

  LIFT_ASSIGN_OR_RETURN(const auto device, Device::Make(common.threads, common.device));
  Transformer::Options model_options;
  const int64_t wanted =
      static_cast<int64_t>(prompt.size()) + std::max<int64_t>(options.max_new_tokens, 0);
  model_options.kv_format = common.kv_format();
  model_options.num_blocks =
      layout::StateBlocks(weights->config(), std::min(wanted, weights->config().max_context),
                          model_options.block_tokens);
  LIFT_ASSIGN_OR_RETURN(auto model, Transformer::Create(weights, *device->backend, model_options));
  LIFT_ASSIGN_OR_RETURN(const std::vector<int32_t> answer,
                        GenerateTokens(*model, prompt, generate));
  LIFT_ASSIGN_OR_RETURN(const std::string text, tokenizer->Decode(answer, /*skip_special=*/true));
  if (common.json) {
    const json report = {{"token_ids", answer}, {"text", text}, {"prompt_tokens", prompt.size()}};
    std::printf("%s\n", report.dump().c_str());
  } else {
    std::printf("%s\n", text.c_str());
  }
  return absl::OkStatus();
}

absl::Status RunLogits(const CommonOptions& common, const LogitsOptions& options) {
  constexpr int64_t kSliceRows = 128;
  LIFT_ASSIGN_OR_RETURN(std::shared_ptr<const Weights> weights,
                        Weights::Open(common.model, common.open_options()));
  LIFT_ASSIGN_OR_RETURN(const int variant, VariantOrFinest(*weights, options.variant));
  const ModelConfig& config = weights->config();
  const auto tokens = static_cast<int64_t>(options.token_ids.size());
  if (tokens < 1 || tokens > config.max_context) {
    return absl::InvalidArgumentError(absl::StrCat("give 1 to ", config.max_context, " token ids"));
  }
  for (int32_t id : options.token_ids) {
    if (id < 0 || id >= config.vocab_size) {
      return absl::InvalidArgumentError(
          absl::StrCat("token ", id, " is outside the vocabulary of ", config.vocab_size));
    }
  }
  LIFT_ASSIGN_OR_RETURN(const auto device, Device::Make(common.threads, common.device));
  Transformer::Options model_options;
  model_options.kv_format = common.kv_format();
  model_options.num_blocks = layout::StateBlocks(config, tokens, model_options.block_tokens);
  LIFT_ASSIGN_OR_RETURN(auto model, Transformer::Create(weights, *device->backend, model_options));
  LIFT_ASSIGN_OR_RETURN(NpyWriter out, NpyWriter::Create(options.out, tokens, config.vocab_size));
  std::vector<int32_t> blocks(static_cast<size_t>(model->num_blocks()));
  std::iota(blocks.begin(), blocks.end(), 0);
  std::vector<float> logits;
  for (int64_t first = 0; first < tokens; first += kSliceRows) {
    SequenceChunk chunk;
    chunk.tokens = std::span(options.token_ids)
                       .subspan(static_cast<size_t>(first),
                                static_cast<size_t>(std::min(kSliceRows, tokens - first)));
    chunk.position = first;
    chunk.blocks = blocks;
    chunk.variant = variant;
    chunk.logits = SequenceChunk::Logits::kAll;
    model->Step({&chunk, 1}, logits);
    LIFT_RETURN_IF_ERROR(out.Append(logits));
  }
  LIFT_RETURN_IF_ERROR(out.Close());
  if (common.json) {
    const json report = {{"out", options.out}, {"tokens", tokens}, {"vocab", config.vocab_size}};
    std::printf("%s\n", report.dump().c_str());
  }
  return absl::OkStatus();
}

absl::Status RunTokenize(const CommonOptions& common, const TokenizeOptions& options) {
  LIFT_ASSIGN_OR_RETURN(const std::string text, ReadText(common.text_path));
  LIFT_ASSIGN_OR_RETURN(auto weights, Weights::Open(common.model, common.open_options()));
  LIFT_ASSIGN_OR_RETURN(auto tokenizer, LoadTokenizer(*weights));
  LIFT_ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                        tokenizer->Encode(text, {.add_special = options.add_special,
                                                 .parse_special = options.parse_special}));
  if (common.json) {
    std::printf("%s\n", json({{"token_ids", ids}}).dump().c_str());
  } else {
    for (int32_t id : ids) std::printf("%d\n", id);
  }
  return absl::OkStatus();
}

}  // namespace lift::eval
